"""Triggers: each fires when it should, not before, jitted or not."""

import jax
import numpy as np
import pytest

from trainkit.progressive import triggers
from trainkit.progressive.stages.triggers import Observation


def first_firing(trigger, observations, jit=False):
    """The index of the observation at which the trigger fires, or None."""
    update = jax.jit(trigger.update) if jit else trigger.update
    state = trigger.init()
    for index, seen in enumerate(observations):
        state, over = update(state, seen)
        if over:
            return index
    return None


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (triggers.steps, "step"),
        (triggers.epochs, "epoch"),
        (triggers.examples, "examples"),
        (triggers.flops, "flops"),
        (triggers.seconds, "seconds"),
    ],
)
def test_counters_fire_at_their_number(make, field):
    seen = [Observation(**{field: n}) for n in range(10)]
    assert first_firing(make(7), seen) == 7


def test_a_metric_is_compared_in_the_direction_its_name_implies():
    def at(name, values):
        return [Observation(metrics={name: v}) for v in values]

    assert first_firing(triggers.reaches("accuracy", 0.9), at("accuracy", [0.5, 0.89, 0.9])) == 2
    assert first_firing(triggers.reaches("val_loss", 0.5), at("val_loss", [0.9, 0.6, 0.5])) == 2
    upward = triggers.reaches("loss", 2.0, mode="max")
    assert first_firing(upward, at("loss", [1.0, 2.0])) == 1


@pytest.mark.parametrize("jit", [False, True])
def test_a_plateau_is_the_least_squares_slope_of_the_last_values(jit):
    rng = np.random.default_rng(0)
    values = 3 * np.exp(-np.arange(40) / 6) + 1000 + 0.01 * rng.standard_normal(40)
    patience, slope = 6, 0.02
    fits = [
        -np.polyfit(np.arange(patience), values[i - patience + 1 : i + 1], 1)[0]
        for i in range(patience - 1, 40)
    ]
    expected = patience - 1 + int(np.argmax(np.asarray(fits) <= slope))
    assert patience < expected < 39  # neither at once nor at the very end
    trigger = triggers.plateau("loss", slope=slope, patience=patience)
    seen = [Observation(metrics={"loss": np.float32(v)}, fresh=True) for v in values]
    assert first_firing(trigger, seen, jit=jit) == expected


def test_a_stale_metric_does_not_count_as_an_evaluation():
    trigger = triggers.plateau("loss", patience=3)
    stale = [Observation(metrics={"loss": 1.0}, fresh=i == 0) for i in range(20)]
    assert first_firing(trigger, stale) is None


def test_any_and_all():
    both = triggers.steps(3) & triggers.reaches("accuracy", 0.9)
    either = triggers.steps(3) | triggers.reaches("accuracy", 0.9)
    seen = [Observation(step=i, metrics={"accuracy": 0.3 * i}) for i in range(6)]
    early = [Observation(step=i, metrics={"accuracy": 1.0}) for i in range(6)]
    assert first_firing(both, seen) == 3
    assert first_firing(both, early) == 3
    assert first_firing(either, early) == 0
    assert str(either & triggers.epochs(2)) == "(3 steps or accuracy ≥ 0.9) and 2 epochs"
    assert both.metrics == {"accuracy"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: triggers.steps(0), "at least 1"),
        (lambda: triggers.flops(float("nan")), "greater than 0"),
        (lambda: triggers.plateau("loss", patience=1), "at least 2"),
        (lambda: triggers.plateau("loss", slope=-1.0), "at least 0"),
        (lambda: triggers.reaches("loss", float("inf")), "finite"),
        (lambda: triggers.reaches("loss", 1.0, mode="down"), "'auto', 'max' or 'min'"),
        (lambda: triggers.any_of(), "at least one"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_metric_that_nothing_computes_is_named():
    trigger = triggers.reaches("accuracy", 0.9)
    with pytest.raises(ValueError, match=r"'accuracy'.*computed are: loss"):
        trigger.update(trigger.init(), Observation(metrics={"loss": 1.0}))
