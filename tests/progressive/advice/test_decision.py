"""The decision, on curves whose truth is known."""

import math

import numpy as np
import pytest

from trainkit.progressive import Stage, triggers
from trainkit.progressive.advice.choices import Choice
from trainkit.progressive.advice.curves import Curve, predict
from trainkit.progressive.advice.decision import decide, expected_of, quantiles
from trainkit.progressive.ledger import Ledger

FLOPS = np.array([1.0, 2.0, 4.0, 8.0])
BUDGET = 64.0
CHOICES = [
    Choice("4", (Stage(4),)),
    Choice("8", (Stage(8),)),
    Choice("4 → 8", (Stage(4, triggers.steps(5)), Stage(8)), 5, 0.01),
]


def advised(losses, diverged=()):
    """The advice for the losses [rungs, seeds] of each choice; the last two share their model."""
    families = [0, 1, 1]
    fit = [k for k in range(3) if k not in diverged]
    draws = np.full((3, 4000), np.inf)
    draws[fit] = predict([Curve(FLOPS, losses[k], families[k]) for k in fit], BUDGET)
    expected = [
        expected_of(
            choice, [40, 80, 80][k], draws[k], (FLOPS, losses[k]), [3.0, 3.2] * choice.grows
        )
        for k, choice in enumerate(CHOICES)
    ]
    return decide(expected, draws, BUDGET, Ledger(train=6.4))


def measured(random, amplitudes, noise):
    """A small size that stops at 2, and a large and a grown one that go on to 1."""
    laws = [2 + amplitudes[0] * FLOPS**-0.6, *(1 + a * FLOPS**-0.4 for a in amplitudes[1:])]
    return [law[:, None] + noise * random.normal(size=(4, 2)) for law in laws]


@pytest.mark.parametrize(
    ("amplitudes", "noise", "grow"),
    [
        ((0.5, 3.0, 2.0), 0.003, True),  # at the budget 2.04 small, 1.57 large, 1.38 grown
        ((0.5, 2.0, 3.0), 0.003, False),
        ((0.5, 2.0, 2.0), 0.003, False),  # the same: nothing separates them
        ((0.5, 2.0, 2.0), 0.2, False),  # nor with much noise
    ],
)
def test_it_grows_only_where_the_evidence_separates(amplitudes, noise, grow):
    found = [
        advised(measured(np.random.default_rng(seed), amplitudes, noise)) for seed in range(20)
    ]
    right = sum(one.grow == grow for one in found)
    # A 95 % interval is one-sided here: of 20 one in 40 is wrong by chance, three are allowed.
    assert right >= 17
    for one in found:
        assert one.grow == (one.below[1] > 0)
        assert one.best.choice.grows == one.grow
        assert one.other.choice.grows != one.grow


def test_what_does_not_pay_is_told_from_what_cannot_be_told():
    random = np.random.default_rng(0)
    worse = advised(measured(random, (0.5, 2.0, 3.0), 0.003))
    assert worse.below[2] < 0
    assert "growing does not pay" in worse.sentence
    assert worse.best.choice.name == "8"
    same = advised(measured(random, (0.5, 2.0, 2.0), 0.003))
    assert same.below[1] < 0 < same.below[2]
    assert "the probes do not tell whether growing pays" in same.sentence


def test_growth_must_beat_every_size_not_only_the_large_one():
    random = np.random.default_rng(0)
    losses = measured(random, (0.5, 3.0, 2.0), 0.003)
    losses[0] = 1.0 + 0.5 * FLOPS[:, None] ** -0.3 + 0.003 * random.normal(size=(4, 2))
    found = advised(losses)
    assert not found.grow
    assert found.best.choice.name == "4"


def test_of_sizes_that_short_runs_do_not_tell_apart_the_larger_is_taken():
    noise = np.random.default_rng(0).normal(size=(3, 4, 2))
    large, grown = (1 + a * FLOPS[:, None] ** -0.4 for a in (2.2, 3.0))
    alike = [1 + 2.15 * FLOPS[:, None] ** -0.4, large, grown]
    found = advised([law + 0.02 * more for law, more in zip(alike, noise, strict=True)])
    by_name = {one.choice.name: one for one in found.expected}
    assert by_name["4"].low < by_name["8"].loss < by_name["4"].high
    assert found.best.choice.name == "8"
    # One that is clearly above is not taken for its size.
    above = [1 + 0.6 * FLOPS[:, None] ** -0.4, 3 + 0 * large, 3.5 + 0 * grown]
    found = advised([law + 0.002 * more for law, more in zip(above, noise, strict=True)])
    assert found.best.choice.name == "4"


def test_the_sentence_and_the_table_have_the_numbers():
    found = advised(measured(np.random.default_rng(0), (0.5, 3.0, 2.0), 0.003))
    assert found.sentence.startswith("Grow: 4 → 8 of the budget, after 5 steps; expected loss 1.3")
    assert "lower than the best size alone (95 % interval" in found.sentence
    shown = str(found)
    assert "10.0% of the budget" in shown
    assert all(choice.name in shown for choice in CHOICES)
    assert [one.loss for one in found.expected] == sorted(one.loss for one in found.expected)
    saved = found.to_json()
    assert saved["grow"] is True
    assert saved["below"][0] > 0
    # Two seeds, 3.0 and 3.2: the interval of a third, t(0.975, 1) · 0.141 · sqrt(1.5).
    assert found.best.before_growth == pytest.approx((3.1, 12.706 * 0.02**0.5 * 1.5**0.5), rel=1e-3)


def test_a_growth_that_diverged_is_not_advised_and_sizes_that_diverged_are_refused():
    losses = measured(np.random.default_rng(0), (0.5, 3.0, 2.0), 0.003)
    found = advised(losses, diverged=(2,))
    assert not found.grow
    assert found.sentence.startswith("Do not grow: every growth diverged. Train 8 alone")
    with pytest.raises(ValueError, match="lower the learning rate"):
        advised(losses, diverged=(0, 1))


def test_an_interval_of_draws():
    low, middle, high = quantiles(np.linspace(0, 1, 1001))
    assert (low, middle, high) == pytest.approx((0.025, 0.5, 0.975))
    assert quantiles(np.array([1.0, math.inf])) == (math.inf,) * 3
