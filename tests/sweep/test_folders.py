"""Runs of a sweep in folders: each trained once, resumed, pruned against the others, compared."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit.data import Sampler
from trainkit.report import read_run
from trainkit.sweep import StopBelowMedian, sweep_runs
from trainkit.sweep.folders import combinations, names_of

DATA = np.full(8, 3.0, np.float32)
RATES = [0.2, 0.15, 0.1, 0.05, 0.3]


def loss_fn(params, model_state, batch, rng):
    return trainkit.Loss(((batch - params) ** 2).sum(), len(batch))


class Runner:
    """Trains to 3; notes which options it was called with."""

    def __init__(self, **options):
        self.called, self.options = [], {"steps": 8} | options

    def __call__(self, options, folder, hooks):
        self.called.append(options["learning_rate"])
        tx = tt.sgd(options["learning_rate"])
        step = trainkit.make_train_step(loss_fn, tx)
        hooks = [*hooks, *self.options.get("hooks", [])]
        return trainkit.fit(
            step, trainkit.TrainState.create(jnp.zeros(()), tx), Sampler(DATA, 4, seed=0),
            evaluate=lambda state: {"loss": (state.params - 3.0) ** 2, "far": state.params},
            eval_every=2, out=folder, config=options, progress=False, report=False,
            **(self.options | {"hooks": hooks}),
        )  # fmt: skip


def expected(rate, steps):
    return (3.0 * (1 - 2 * rate) ** steps) ** 2


def test_every_run_is_trained_and_the_best_is_first(tmp_path):
    found = sweep_runs(Runner(), {"learning_rate": RATES}, tmp_path)
    assert [run.options["learning_rate"] for run in found.runs] == sorted(RATES, reverse=True)
    for run in found.runs:
        assert run.value == pytest.approx(expected(run.options["learning_rate"], 8), rel=1e-4)
        assert run.stopped == "steps=8 reached"
    assert found.best.folder == tmp_path / "learning_rate=0.3"
    lines = str(found).splitlines()
    assert lines[0].split() == [
        *("learning_rate", "validation", "loss", "validation", "far", "steps", "FLOPs", "time"),
        "state",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["0.3", "0.2", "0.15", "0.1", "0.05"]
    assert "learning_rate=0.05" in found.report.read_text()


def test_the_same_call_trains_only_what_is_missing(tmp_path):
    def interrupts(now):
        if now.steps == 4 and len(first.called) == 2:
            raise RuntimeError("killed")

    first, second = Runner(hooks=[interrupts]), Runner()
    with pytest.raises(RuntimeError):
        sweep_runs(first, {"learning_rate": [0.1, 0.2, 0.3]}, tmp_path)
    found = sweep_runs(second, {"learning_rate": [0.1, 0.2, 0.3]}, tmp_path)
    assert (first.called, second.called) == ([0.1, 0.2], [0.2, 0.3])
    assert [run.value for run in found.runs] == pytest.approx(
        [expected(rate, 8) for rate in (0.3, 0.2, 0.1)], rel=1e-4
    )
    # Another value beside them changes no folder.
    third = Runner()
    sweep_runs(third, {"learning_rate": [0.1, 0.2, 0.3, 0.4]}, tmp_path)
    assert third.called == [0.4]


def test_runs_worse_than_the_median_end_early_and_are_last(tmp_path):
    found = sweep_runs(Runner(), {"learning_rate": RATES}, tmp_path, prune=True, after=4)
    ended = {run.options["learning_rate"]: run for run in found.runs}
    # Of the first three none has three beside it; 0.05 lies above their median, 0.3 below it.
    assert [rate for rate, run in ended.items() if run.pruned] == [0.05]
    slow = ended[0.05]
    median = expected(0.15, 4)
    assert slow.stopped == (
        f"pruned: loss {expected(0.05, 4):.4g} at step 4, the median of 3 runs is {median:.4g}"
    )
    assert found.runs[-1] is slow
    assert [row["step"] for row in read_run(slow.folder).of("evaluation")] == [2, 4]
    again = Runner()
    assert sweep_runs(again, {"learning_rate": RATES}, tmp_path).runs[-1].pruned
    assert again.called == []


def test_the_best_may_be_the_largest(tmp_path):
    found = sweep_runs(Runner(), {"learning_rate": RATES}, tmp_path, metric="far", mode="max")
    assert found.best.options == {"learning_rate": 0.3}


def test_pruning_counts_only_runs_that_came_as_far_and_nan_as_the_worst(tmp_path):
    def now(steps, loss):
        return trainkit.Now(steps, 0.0, 0, 0.0, 0.0, None, {}, None, {"loss": loss}, True)

    for rate in (0.1, 0.2):
        Runner(steps=4)({"learning_rate": rate}, tmp_path / str(rate), [])
    folders = [tmp_path / "0.1", tmp_path / "0.2", tmp_path / "none"]
    stop = StopBelowMedian(folders, least=2)
    middle = (expected(0.1, 4) + expected(0.2, 4)) / 2
    assert stop(now(4, middle * 0.99)) is None
    assert stop(now(4, middle * 1.01)).stop.startswith("pruned: loss")
    assert stop(now(6, 1e9)) is None  # nobody is there yet
    assert stop(now(6, math.nan)).stop == "pruned: its loss is nan"
    assert StopBelowMedian(folders, least=3)(now(4, 1e9)) is None
    with pytest.raises(ValueError, match="no metric 'accuracy'; it has loss"):
        StopBelowMedian(folders, "accuracy")(now(4, 1.0))


def test_what_cannot_be_swept_is_said_before_anything_is_trained(tmp_path):
    run = Runner()
    for options, words in (
        ({}, "options must name some values"),
        ({"learning_rate": 0.1}, r"options\['learning_rate'\] must be a list of values, not 0.1"),
        ({"learning_rate": "0.1"}, "must be a list of values"),
        ([{"learning_rate": 0.1}, {"learning_rate": 0.1}], "a run twice, learning_rate=0.1"),
    ):
        with pytest.raises(ValueError, match=words):
            sweep_runs(run, options, tmp_path)
    with pytest.raises(TypeError, match=r"options\[0\]\['f'\]"):
        sweep_runs(run, {"f": [object()]}, tmp_path)
    with pytest.raises(TypeError, match="run must be a function"):
        sweep_runs(lambda options: None, {"a": [1]}, tmp_path)
    assert (run.called, list(tmp_path.iterdir())) == ([], [])
    with pytest.raises(ValueError, match=r"the metric 'accuracy'; there are: far, loss"):
        sweep_runs(run, {"learning_rate": [0.1]}, tmp_path, metric="accuracy")


def test_names_are_those_of_files_and_differ():
    points = combinations({"path": ["a/b", "a_b"], "width": [8]})
    names = names_of(points)
    assert names[0].startswith("path=a_b,width=8-")
    assert names[1] == "path=a_b,width=8"
    assert len(names_of([{"long": "x" * 200}])[0]) < 80
