"""What advice lost on a task, and the tasks themselves."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.regret import train
from experiments.regret.tasks import HELD, TASKS, modular, parity, teacher
from experiments.regret.train import regret_of, summary
from trainkit.progressive import Stage, triggers
from trainkit.progressive.advice.choices import Choice
from trainkit.progressive.advice.decision import Advice, Expected
from trainkit.progressive.ledger import Ledger


def one(name, *stages, loss=1.0):
    return Expected(Choice(name, stages), 9, loss, loss - 0.1, loss + 0.1, None, ())


ALONE = one("large", Stage(8), loss=1.0)
GROWN = one("small → large", Stage(4, triggers.steps(3)), Stage(8), loss=0.8)


def advice(grow):
    best, other = (GROWN, ALONE) if grow else (ALONE, GROWN)
    return Advice(grow, best, other, (0.2, 0.1, 0.3), 0.9, (GROWN, ALONE), 4.0, Ledger(train=0.8))


def came(large, grown):
    """Losses at 1, 2 and 4 FLOPs, of two seeds that differ by 0.02."""
    seeds = lambda losses: [[x - 0.01 for x in losses], [x + 0.01 for x in losses]]
    return {
        "large": {"grows": False, "flops": [1.0, 2.0, 4.0], "losses": seeds(large)},
        "small → large": {"grows": True, "flops": [1.0, 2.0, 4.0], "losses": seeds(grown)},
    }


def test_the_best_choice_leaves_no_regret():
    row = regret_of(advice(True), came([1.4, 1.2, 1.0], [1.2, 1.0, 0.85]))
    assert (row["regret"], row["regret_flops"]) == (0.0, 0.0)
    assert row["growing_below"] == pytest.approx(0.15)
    assert row["inside"] == [True, True]  # 0.85 in 0.7 to 0.9, and 1.0 in 0.9 to 1.1


def test_regret_is_what_the_best_would_have_needed_less():
    row = regret_of(advice(False), came([1.4, 1.2, 1.0], [1.2, 1.0, 0.8]))
    assert row["regret"] == pytest.approx(0.2)
    assert row["regret_flops"] == pytest.approx(0.5)  # growing is at 1.0 with 2 of 4 FLOPs
    row = regret_of(advice(True), came([1.0, 0.8, 0.6], [1.2, 1.0, 0.8]))
    assert row["best"] == "large"
    assert row["regret_flops"] == pytest.approx(0.5)
    assert row["growing_below"] == pytest.approx(-0.2)


def test_the_summary_counts_claims_that_a_finished_comparison_contradicts():
    good = regret_of(advice(True), came([1.4, 1.2, 1.0], [1.2, 1.0, 0.85]))
    bad = regret_of(advice(True), came([1.0, 0.8, 0.6], [1.2, 1.0, 0.8]))
    text = summary([good, bad, good])
    assert "3 tasks: regret 0.0% of the FLOPs (median), 50.0% (worst)" in text
    assert "advised on 3, wrongly on 1; it ended lowest on 2" in text


def test_what_the_generated_tables_say_is_so():
    held = parity()[1]
    assert ((held["x"][:, :3] > 0).sum(1) % 2 == held["label"]).all()
    held = modular()[1]
    a, b = held["x"][:, :11].argmax(1), held["x"][:, 11:].argmax(1)
    right = ((a + b) % 11 == held["label"]).mean()
    # Nine in ten, and one in eleven of those drawn: .909, with a deviation of .013.
    assert right == pytest.approx(0.909, abs=0.05)
    numbers = teacher(0, 2)[1]["label"]
    assert numbers.dtype == np.float32
    assert numbers.std() == pytest.approx(1.0, abs=0.2)
    assert set(np.unique(teacher(5, 2)[1]["label"])) == set(range(5))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_has_sizes_that_grow_and_as_many_examples_held_out(task):
    counts = []
    sampler, (held,) = task.sampler()
    for model in task.sizes:
        batch = sampler.draw(sampler.position)[0]
        shapes = jax.eval_shape(
            lambda batch, model=model: task.build(model).state(task.tx, batch, rng=0), batch
        )
        counts.append(sum(x.size for x in jax.tree.leaves(shapes.params)))
    assert counts == sorted(set(counts))
    assert jax.tree.leaves(held)[0].size >= HELD


def test_there_are_twelve_tasks_or_more_with_names_of_their_own():
    assert len({task.name for task in TASKS}) == len(TASKS) >= 12
    for task in TASKS:  # runs are kept by these names
        assert len(set(train.size_names(task.sizes))) == len(task.sizes)


def test_options_that_name_nothing_are_refused():
    with pytest.raises(ValueError, match="--tasks names none"):
        train.run(train.Config(tasks=("no such",)))
    with pytest.raises(ValueError, match="--grow-at"):
        dataclasses.replace(train.Config(), grow_at=(0.9,))
