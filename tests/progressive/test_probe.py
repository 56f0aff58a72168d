"""Choosing by trying, in runs: what wins is taken, and what does not pay is not."""

import numpy as np
import optax
import pytest

from tests.progressive import tiny
from trainkit.data import Sampler
from trainkit.progressive import Price, Probe, Stage, triggers

events = tiny.events


def test_the_probe_does_not_grow_where_growing_does_not_pay():
    # The labels are those of a linear rule, which the small model has learnt all there is of.
    random = np.random.default_rng(0)
    x = random.normal(size=(256, tiny.FEATURES)).astype(np.float32)
    label = random.integers(0, tiny.CLASSES, 256).astype(np.int32)  # nothing can be learnt
    data = {"x": x, "label": label}
    result = tiny.run(
        [Stage(4, triggers.steps(60)), Stage(32)],
        data=Sampler({k: v[:128] for k, v in data.items()}, 16),
        validation=tiny.parts({k: v[128:] for k, v in data.items()}, 16),
        steps=150,
        probe=Probe(steps=20, batches=8),
    )
    assert not events(result, "growth")
    (probe, *_) = [e["probe"] for e in result.history if e.get("probe")]
    names = [row["name"] for row in probe["candidates"]]
    assert names[:2] == ["do not grow", "only lower the learning rate"]
    assert probe["candidates"][probe["best"]]["kind"] != "grow"
    assert result.ledger.probe > 0


def test_candidates_get_equal_flops():
    result = tiny.run(
        [Stage(4, triggers.steps(8)), Stage(32)], steps=10, decay=0.1, probe=Probe(steps=64)
    )
    (probe,) = [e["probe"] for e in result.history if e.get("probe")]
    stay, lower, big = probe["candidates"]
    assert stay["flops"] == lower["flops"]
    assert big["steps"] < stay["steps"]
    assert big["flops"] == pytest.approx(stay["flops"], rel=0.5 / big["steps"] + 1e-6)


def test_a_probe_chooses_among_alternatives_and_grows_where_it_pays():
    # At a learning rate of 0 the small model cannot move; the candidate that may, wins.
    stages = [
        Stage(4, triggers.steps(10), learning_rate=1e-6),
        [Stage(8, learning_rate=1e-6), Stage(16)],
    ]
    result = tiny.run(stages, steps=30, probe=Probe(steps=60, errors=1.0))
    (growth,) = events(result, "growth")
    assert growth["alternative"] == 1
    assert result.model == 16
    best = growth["probe"]["candidates"][growth["probe"]["best"]]
    assert best["gain"] > best["error"]


def test_growth_that_is_not_worth_its_price_is_not_made():
    stages = [Stage(4, triggers.steps(10), learning_rate=1e-6), Stage(16)]
    dear = tiny.run(stages, steps=30, price=Price(per_parameter=1.0))
    assert not events(dear, "growth")
    free = tiny.run(stages, steps=30, probe=Probe(steps=60, errors=1.0))
    assert events(free, "growth")


TOO_HIGH = {"tx": optax.sgd(3.0), "steps": 40, "decay": 0.0}


def test_where_the_learning_rate_is_what_is_wrong_it_is_lowered_and_nothing_grows():
    stages = [Stage(4, triggers.steps(20)), Stage(8)]
    result = tiny.run(stages, probe=Probe(steps=30, batches=4, lower=0.1), **TOO_HIGH)
    first = events(result, "lower")[0]
    assert first["step"] == 20
    assert not events(result, "growth")
    assert result.model == 4
    # Each time the trigger fires the probe may lower it once more.
    lowered = len(events(result, "lower"))
    assert float(result.state.opt_state.level) == pytest.approx(0.1**lowered)
    assert result.prepared.step.compiles == 1  # a number in the state, no other program


def test_annealed_candidates_are_compared_as_finished_models():
    stages = [Stage(4, triggers.steps(20)), Stage(8)]
    losses = {}
    for anneal in (False, True):
        probe = Probe(steps=30, batches=4, anneal=anneal)
        result = tiny.run(stages, probe=probe, **TOO_HIGH)
        (found, *_) = [e["probe"] for e in result.history if e.get("probe")]
        losses[anneal] = {row["kind"]: row["loss"] for row in found["candidates"]}
    # A rate that falls to 0 mends most of what was wrong with one that is too high, for all of
    # them: lowering it is no longer flattered.
    assert losses[True]["stay"] < losses[False]["stay"]
    gains = {a: found["stay"] - found["lower"] for a, found in losses.items()}
    assert gains[True] < gains[False]
