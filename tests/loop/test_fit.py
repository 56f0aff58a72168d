"""The loop: its order, its ends, its files, and going on after any death as if nothing were."""

import html
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from tests.loop.resumable_run import DATA, STEPS, run
from trainkit._core.run_files import read_metrics
from trainkit.data import Sampler
from trainkit.loop.fit import fit
from trainkit.loop.saved.step import DamagedError
from trainkit.loop.stopping import EarlyStopping
from trainkit.report import write_report

# What differs between two runs of the same program, however alike they are.
TIMES = {"seconds", "examples_per_second", "compile_seconds"}


def rows_without_times(folder):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder)]


def words(state):
    leaves = jax.tree.leaves(
        jax.tree.map(
            lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
            state,
        )
    )
    return [(leaf.shape, str(leaf.dtype), np.asarray(leaf).tobytes()) for leaf in leaves]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """placement -> (folder, result) of a run that nothing happened to."""
    made = {}

    def get(placement):
        if placement not in made:
            folder = tmp_path_factory.mktemp("undisturbed") / placement
            made[placement] = folder, run(folder, placement)
        return made[placement]

    return get


@pytest.fixture
def sigterm():
    """The SIGTERMs that this process got, which do not end it."""
    before, came = signal.getsignal(signal.SIGTERM), []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)


# -- killed and resumed ----------------------------------------------------------------------

PLACEMENTS = ["single", "pmap", "jit"]


def killed(out, placement, step, name):
    command = [sys.executable, str(Path(__file__).parent / "resumable_run.py")]
    done = subprocess.run(
        [*command, str(out), placement, str(step), name],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    return done


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_killed_twice_at_random_steps_a_run_ends_bitwise_the_same(tmp_path, undisturbed, placement):
    # One step at which a checkpoint is just being written (a multiple of 7), and any other.
    generator = random.Random(placement)
    writing = 7 * generator.randrange(1, 4)
    anywhere = generator.randrange(30, STEPS)
    for step in (writing, anywhere):
        done = killed(tmp_path / "run", placement, step, "SIGKILL")
        assert done.returncode == -signal.SIGKILL, done.stderr
    result = run(tmp_path / "run", placement)
    folder, expected = undisturbed(placement)
    assert words(result.state) == words(expected.state)
    assert rows_without_times(tmp_path / "run") == rows_without_times(folder)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("step", [1, 20, 33])
def test_after_sigterm_a_run_ends_bitwise_the_same(tmp_path, undisturbed, placement, step, sigterm):
    result = run(tmp_path, placement, kill=step, signal_number=signal.SIGTERM)
    assert result.stopped == "interrupted by SIGTERM"
    assert sigterm == [signal.SIGTERM]
    # The signal comes between two steps; the one under way is finished and saved.
    assert result.steps == step + 1
    assert (tmp_path / "checkpoints" / str(step + 1)).is_dir()
    result = run(tmp_path, placement)
    folder, expected = undisturbed(placement)
    assert result.steps == STEPS
    assert words(result.state) == words(expected.state)
    assert rows_without_times(tmp_path) == rows_without_times(folder)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_from_outside_ends_the_process_in_order_with_its_own_status(tmp_path, name):
    done = killed(tmp_path, "single", 20, name)
    assert done.returncode == -getattr(signal, name), done.stderr
    assert done.stdout == ""  # what comes after `fit` in the script does not run
    stopped = json.loads((tmp_path / "summary.json").read_text())["stopped"]
    assert stopped == f"interrupted by {name}"
    assert saved_steps(tmp_path)[-1] == 21


@pytest.mark.parametrize("where", ["evaluate", "data"])
def test_a_signal_is_heard_while_something_is_waited_for(tmp_path, sigterm, where):
    def blocks():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(60)

    def go(blocked, out):
        class Data(Sampler):
            def __next__(self):
                if blocked and where == "data" and self.position == (4, 0):
                    blocks()
                return super().__next__()

        def evaluate(state):
            if blocked and where == "evaluate" and state.step == 8:
                blocks()
            return mean_evaluation(state)

        step, state, _ = mean_problem()
        return fit(
            step, state, Data(EIGHT, 4), steps=20, evaluate=evaluate, eval_every=4,
            checkpoint_every=9, out=out, progress=False, report=False,
        )  # fmt: skip

    begin = time.monotonic()
    assert go(True, tmp_path / "run").stopped == "interrupted by SIGTERM"
    assert time.monotonic() - begin < 30
    assert saved_steps(tmp_path / "run")[-1] >= 6
    result, undisturbed = go(False, tmp_path / "run"), go(False, tmp_path / "undisturbed")
    assert words(result.state) == words(undisturbed.state)
    assert result.best == undisturbed.best
    assert rows_without_times(tmp_path / "run") == rows_without_times(tmp_path / "undisturbed")


def test_over_a_damaged_checkpoint_a_run_ends_bitwise_the_same(tmp_path, undisturbed, capsys):
    run(tmp_path, steps=40)
    newest = tmp_path / "checkpoints" / "40"
    largest = max((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    os.truncate(largest, 100)
    result = run(tmp_path, progress=True)
    said = capsys.readouterr().out
    assert "The checkpoint of step 40" in said
    assert "The one of step 35 is used instead." in said
    folder, expected = undisturbed("single")
    assert words(result.state) == words(expected.state)
    assert rows_without_times(tmp_path) == rows_without_times(folder)


def test_the_log_has_every_row_once(undisturbed):
    folder, _ = undisturbed("single")
    rows = read_metrics(folder)
    assert [r["step"] for r in rows if r["kind"] == "train"] == list(range(3, STEPS + 1, 3))
    assert [r["step"] for r in rows if r["kind"] == "evaluation"] == list(range(10, STEPS + 1, 10))
    assert [r["step"] for r in rows] == sorted(r["step"] for r in rows)
    for row in rows:
        assert row["examples"] == 16 * row["step"]
        assert row["epoch"] == pytest.approx(row["step"] // 5 + row["step"] % 5 * 16 / 88)


def test_a_finished_run_is_not_trained_again(undisturbed, capsys):
    folder, expected = undisturbed("single")
    before = (folder / "metrics.jsonl").read_bytes()
    calls = []
    again = run(folder, hooks=[calls.append], progress=True)
    assert "This run is finished: steps=60 reached." in capsys.readouterr().out
    assert calls == []
    assert words(again.state) == words(expected.state)
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert again.evaluation == expected.evaluation
    assert again.metrics == expected.metrics


# -- the order and the ends ------------------------------------------------------------------


EIGHT = np.arange(8, dtype=np.float32)


def mean_problem(values=EIGHT, **options):
    """The smallest problem there is: the mean of some numbers, by gradient descent."""

    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((batch - params["mean"]) ** 2).sum(), batch.shape[0])

    tx = optax.sgd(0.1)
    step = trainkit.make_train_step(loss_fn, tx, **options)
    return step, trainkit.TrainState.create({"mean": jnp.zeros(())}, tx), Sampler(values, 4)


def test_the_order_is_evaluate_save_hook_draw_step(tmp_path, monkeypatch):
    step, state, _ = mean_problem()
    seen = []

    def recording(state, batch):
        seen.append("step")
        return step(state, batch)

    class Data(Sampler):
        def __next__(self):
            seen.append("draw")
            return super().__next__()

    save = trainkit.checkpoint.Checkpointer.save

    def saving(self, *args, **kwargs):
        seen.append("save")
        return save(self, *args, **kwargs)

    monkeypatch.setattr(trainkit.checkpoint.Checkpointer, "save", saving)

    def evaluate(state):
        seen.append("evaluate")
        return {"loss": 1.0}

    fit(
        recording,
        step.place(state),
        Data(np.arange(8, dtype=np.float32), 4),
        steps=2,
        evaluate=evaluate,
        eval_every=1,
        hooks=[lambda now: seen.append("hook")],
        out=tmp_path,
        prefetch=0,
        progress=False,
        report=False,
    )
    one = ["evaluate", "save", "hook", "draw", "step"]
    assert seen == [*one[2:], *one, *one[:2]]


def test_the_data_position_saved_is_that_of_what_was_trained_on(tmp_path):
    step, state, data = mean_problem()
    fit(step, state, data, steps=3, out=tmp_path, prefetch=5, progress=False, report=False)
    assert data.position == (1, 4)  # eight drawn, three of them used
    with trainkit.checkpoint.Checkpointer(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.info()["data"] == [1, 4]


def test_a_second_fit_goes_on_in_the_data_and_counts_its_own_epochs():
    step, state, data = mean_problem(np.arange(22, dtype=np.float32))
    drawn = []
    for epochs, steps, position in ((1, 5, (1, 0)), (0.5, 3, (1, 12)), (1, 5, (2, 12))):
        result = fit(step, state, data, epochs=epochs, progress=False)
        assert (result.steps, data.position) == (steps, position)
        drawn.append(result.epochs)
    assert drawn == [1, 12 / 22, 1]


def test_epochs_go_on_where_a_hook_gives_other_data(tmp_path):
    step, state, data = mean_problem()
    more = Sampler(np.arange(16, dtype=np.float32), 4)

    def gives(now):
        return trainkit.Change(data=more) if now.steps == 3 else None

    result = fit(step, state, data, steps=7, hooks=[gives], progress=False)
    assert result.epochs == 1.5 + 1


class Counting:
    """Batches whose place is whatever it is given."""

    def __init__(self, position):
        self.position = position

    def __iter__(self):
        return self

    def __next__(self):
        at = self.position
        if isinstance(at, dict):
            self.position = {"at": [at["at"][0] + 1]}
        else:
            self.position = at + 1 if isinstance(at, int) else (*at[:-1], at[-1] + 1)
        return np.full(4, 1.0, np.float32)

    def restore(self, position):
        assert type(position) is type(self.position)
        self.position = position


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 6), ({"at": [0]}, {"at": [6]}), ((5, 0), (5, 6))], ids=str
)
def test_a_place_in_the_data_may_be_anything_that_json_can_hold(tmp_path, begin, end):
    for steps in (3, 6):
        step, state, _ = mean_problem()
        data = Counting(begin)
        fit(step, state, data, steps=steps, out=tmp_path, progress=False, report=False)
    assert data.position == end


@pytest.mark.parametrize("position", [{1: 2}, np.arange(2), b"x", {"at": {3}}], ids=repr)
def test_a_place_that_could_not_be_restored_is_refused_before_anything_is_written(
    tmp_path, position
):
    step, state, _ = mean_problem()
    with pytest.raises(TypeError, match=r"data\.position must be a JSON value"):
        fit(step, state, Counting(position), steps=3, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_whose_checkpoints_are_gone_does_not_begin_again_unasked(tmp_path):
    def go(**options):
        step, state, data = mean_problem()
        return fit(step, state, data, steps=4, log_every=1, out=tmp_path, progress=False,
                   report=False, **options)  # fmt: skip

    go()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="has saved checkpoints, but there is none left"):
        go()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert go(overwrite=True).steps == 4


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path):
    step, state, data = mean_problem()

    def fails(now):
        if now.steps == 2:
            raise RuntimeError("mine")

    options = {"steps": 4, "log_every": 1, "out": tmp_path, "progress": False, "report": False}
    with pytest.raises(RuntimeError, match="mine"):
        fit(step, state, data, hooks=[fails], **options)
    assert read_metrics(tmp_path)
    step, state, data = mean_problem()
    assert fit(step, state, data, **options).steps == 4
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("budget", "steps", "stopped"),
    [
        ({"steps": 5}, 5, "steps=5 reached"),
        ({"epochs": 3}, 6, "epochs=3 reached"),
        ({"epochs": 1.5}, 3, "epochs=1.5 reached"),
        ({"steps": 9, "epochs": 2}, 4, "epochs=2 reached"),
        ({"seconds": 1e-9}, 0, "seconds=1e-09 reached"),
    ],
)
def test_a_run_ends_at_the_first_limit(budget, steps, stopped):
    step, state, data = mean_problem()
    result = fit(step, state, data, **budget, progress=False)
    assert (result.steps, result.stopped) == (steps, stopped)
    assert int(result.state.step) == steps
    assert result.examples == 4 * steps


def test_a_flop_budget_counts_what_the_step_costs():
    step, state, data = mean_problem()
    once = fit(step, state, data, steps=1, progress=False).flops
    assert once > 0
    result = fit(step, state, data, flops=3.5 * once, progress=False)
    assert result.steps == 4
    assert result.flops == 4 * once


def test_a_flop_budget_needs_a_step_whose_flops_are_known():
    step, state, data = mean_problem()
    with pytest.raises(ValueError, match=r"not known: make it with make_train_step or jax\.jit"):
        fit(lambda s, b: step(s, b), step.place(state), data, flops=1e9, progress=False)
    count = jax.jit(lambda s, b: (s + b @ b, {}))
    result = fit(count, jnp.zeros(()), data, flops=100, progress=False)
    assert (result.steps, result.flops) == (12, 108)  # 2·4 for the product, 1 for the sum


def test_data_that_ends_ends_the_run_after_a_last_evaluation():
    step, state, _ = mean_problem()
    batches = [np.ones(4, np.float32)] * 3
    result = fit(step, state, batches, evaluate=lambda s: {"loss": s.step}, progress=False)
    assert result.stopped == "the data ended"
    assert result.evaluation == {"loss": 3.0}


def test_several_steps_a_call_are_counted_and_logged(tmp_path):
    step, state, data = mean_problem(steps_per_call=2)
    result = fit(step, state, data, steps=6, log_every=2, out=tmp_path, progress=False)
    assert (result.steps, result.examples) == (6, 24)
    assert [row["step"] for row in read_metrics(tmp_path)] == [2, 4, 6]
    single, state, data = mean_problem()
    alone = fit(single, state, data, steps=6, progress=False)
    # The same sums in another program: a few units in the last place.
    np.testing.assert_allclose(result.state.params["mean"], alone.state.params["mean"], rtol=1e-6)


def test_the_last_step_is_a_row_whenever_a_run_ends_by_itself(tmp_path):
    for how in ({"steps": 3}, {"steps": 9, "hooks": [lambda now: stop_at(3, now)]}):
        step, state, data = mean_problem()
        result = fit(step, state, data, log_every=2, out=tmp_path, overwrite=True, progress=False,
                     **how)  # fmt: skip
        rows = read_metrics(tmp_path)
        assert [row["step"] for row in rows] == [2, 3]
        assert rows[-1].items() >= result.metrics.items()
        assert rows[0]["seconds"] < rows[1]["seconds"] <= result.seconds


def stop_at(step, now):
    return trainkit.Change(stop="enough") if now.steps == step else None


def test_an_interrupted_run_gives_its_last_metrics_and_writes_no_other_rows(tmp_path):
    step, state, data = mean_problem()

    def interrupt(now):
        if now.steps == 2:
            signal.raise_signal(signal.SIGINT)

    options = {"steps": 8, "log_every": 2, "out": tmp_path, "progress": False}
    result = fit(step, state, data, hooks=[interrupt], **options)
    assert [row["step"] for row in read_metrics(tmp_path)] == [2]
    assert result.metrics["loss"] == fit(*mean_problem(), steps=3, progress=False).metrics["loss"]
    assert result.steps == 3
    fit(*mean_problem(), **options)
    assert [row["step"] for row in read_metrics(tmp_path)] == [2, 4, 6, 8]


def test_a_hook_sees_the_training_metrics_and_of_which_step_they_are(tmp_path):
    seen = []
    look = lambda now: seen.append((now.steps, now.metrics_at, now.metrics.get("loss")))
    options = {"log_every": 2, "checkpoint_every": 3, "out": tmp_path, "progress": False}
    fit(*mean_problem(), steps=6, hooks=[look], **options)
    losses = {row["step"]: row["loss"] for row in read_metrics(tmp_path)}
    assert [at for _, at, _ in seen] == [None, None, None, 2, 2, 2]
    assert all(loss == losses.get(at) for _, at, loss in seen)
    del seen[:]
    fit(*mean_problem(), steps=9, hooks=[look], **options)
    assert seen[0] == (6, 6, losses[6])


def test_no_step_waits_for_the_one_before(tmp_path):
    """Metrics are fetched at most once a logging interval, and those of an earlier step."""
    fetched = []

    class Metric:
        def __init__(self, made):
            self.made = made

        def __array__(self, dtype=None, copy=None):
            fetched.append((self.made, steps[0]))
            return np.zeros((), np.float32)

    steps = [0]

    def step(state, batch):
        steps[0] += 1
        return state, {"loss": Metric(steps[0])}

    fit(step, None, iter([np.zeros(2)] * 40), log_every=10, progress=False, out=None)
    assert fetched == [(10, 20), (20, 30), (30, 40), (40, 40)]


def test_a_step_of_ones_own_has_its_first_call_taken_for_compiling(tmp_path):
    def step(state, batch):
        if state == 0:
            time.sleep(0.3)
        return state + 1, {"loss": 1.0}

    options = {"log_every": 1, "out": tmp_path, "progress": False, "report": False}
    fit(step, np.zeros((), np.int32), Sampler(np.arange(8), 4), steps=3, **options)
    first, *_ = read_metrics(tmp_path)
    assert first["compile_seconds"] >= 0.3
    assert first["examples_per_second"] > 4 / 0.3


def test_steps_that_were_never_finite_raise_at_the_end_at_the_latest():
    step, state, _ = mean_problem(skip_nonfinite=2)
    bad = Sampler(np.full(8, np.nan, np.float32), 4)
    with pytest.raises(trainkit.NonFiniteError):
        fit(step, state, bad, steps=3, progress=False)


def test_other_versions_are_pointed_out_on_going_on(tmp_path, monkeypatch, capsys):
    step, state, data = mean_problem()
    fit(step, state, data, steps=2, out=tmp_path, report=False)
    monkeypatch.setattr("trainkit.loop.resumption.versions", lambda: {"jax": "99.0"})
    step, state, data = mean_problem()
    fit(step, state, data, steps=4, out=tmp_path, report=False)
    out = capsys.readouterr().out
    assert "Going on at step 2" in out
    assert f"jax {jax.__version__} → 99.0" in out


# -- nothing is lost at an end -----------------------------------------------------------------


def mean_evaluation(state):
    return {"loss": float(state.params["mean"])}


def saved_steps(folder):
    return trainkit.checkpoint.Checkpointer(folder / "checkpoints").steps


def test_a_run_that_a_hook_ends_is_evaluated_and_saved_there(tmp_path):
    def enough(now):
        return trainkit.Change(stop="enough") if now.steps == 10 else None

    for _ in range(2):  # the second time nothing is trained again
        step, state, data = mean_problem()
        result = fit(
            step, state, data, steps=20, evaluate=mean_evaluation, eval_every=4,
            checkpoint_every=7, hooks=[enough], out=tmp_path, progress=False, report=False,
        )  # fmt: skip
        assert (result.steps, result.stopped) == (10, "enough")
        assert result.evaluation["loss"] == float(result.state.params["mean"])
        assert saved_steps(tmp_path)[-1] == 10
        rows = [row["step"] for row in read_metrics(tmp_path) if row["kind"] == "evaluation"]
        assert rows == [4, 8, 10]
    assert step.compiles == 0


@pytest.mark.parametrize("where", ["evaluate", "data"])
def test_an_error_of_the_users_own_loses_no_step(tmp_path, where):
    def go(fails_at=None, out=tmp_path):
        def evaluate(state):
            if where == "evaluate" and state.step == fails_at:
                raise RuntimeError("mine")
            return mean_evaluation(state)

        class Data(Sampler):
            def __next__(self):
                if where == "data" and self.position == (fails_at // 2, 0) if fails_at else False:
                    raise RuntimeError("mine")
                return super().__next__()

        step, state, _ = mean_problem()
        return fit(
            step, state, Data(EIGHT, 4), steps=20, evaluate=evaluate, eval_every=4,
            checkpoint_every=8, out=out, progress=False, report=False,
        )  # fmt: skip

    with pytest.raises(RuntimeError, match="mine"):
        go(12)
    if where == "evaluate":
        assert saved_steps(tmp_path)[-1] == 12
    else:
        assert saved_steps(tmp_path)[-1] >= 10  # what was read ahead was never trained on
    result = go()
    again = go(out=tmp_path / "undisturbed")
    assert words(result.state) == words(again.state)
    assert result.best == again.best
    assert rows_without_times(tmp_path) == rows_without_times(tmp_path / "undisturbed")


@pytest.mark.parametrize("how", ["a step", "several steps a call", "a step of ones own"])
def test_a_loader_may_fill_its_arrays_again(how):
    def loader(size):
        buffer = np.empty(size, np.float32)
        for value in range(12):
            buffer[:] = value
            yield buffer

    step, state, _ = mean_problem(steps_per_call=3 if how == "several steps a call" else 1)
    own = lambda state, batch: step(state, batch)
    result = fit(own if how == "a step of ones own" else step, step.place(state),
                 loader(1 << 16), progress=False)  # fmt: skip
    mean = 0.0
    for value in range(12):
        mean += 0.2 * (value - mean)
    assert float(result.state.params["mean"]) == pytest.approx(mean, rel=1e-5)


# -- what is not finite ------------------------------------------------------------------------


def with_nan(out, bad=20, **options):
    values = np.arange(40, dtype=np.float32)
    values[bad] = np.nan
    step, state, _ = mean_problem(donate=True, **options.pop("step", {}))
    data = Sampler(values, 4, shuffle=False)
    return fit(step, state, data, out=out, progress=False, report=False, **options)


def test_what_is_not_finite_never_replaces_what_is(tmp_path):
    result = with_nan(tmp_path, steps=20, checkpoint_every=2, keep=1)
    assert result.stopped == "params/mean is not finite at step 6"
    assert saved_steps(tmp_path) == [4]
    assert int(result.state.step) == 4
    assert np.isfinite(result.state.params["mean"])


def test_a_loss_that_is_not_finite_ends_a_run_when_it_is_logged():
    result = with_nan(None, steps=200, log_every=2)
    assert result.stopped == "the loss is nan at step 6"
    assert result.steps == 8  # a row is written when the next is due
    assert with_nan(None, steps=200, stop_nonfinite=False).stopped == "steps=200 reached"
    kept = with_nan(None, steps=200, log_every=1, step={"skip_nonfinite": True})
    assert kept.stopped == "steps=200 reached"


def test_a_last_step_that_is_not_finite_is_not_taken_for_a_good_end(tmp_path):
    result = with_nan(tmp_path, steps=6, checkpoint_every=4, evaluate=mean_evaluation)
    assert result.stopped == "params/mean is not finite at step 6"
    assert (saved_steps(tmp_path), int(result.state.step)) == ([4], 4)


def test_a_leaf_without_elements_is_resumed(tmp_path):
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((batch - params["mean"]) ** 2).sum() + params["none"].sum(), 4)

    for steps in (2, 4):
        tx = optax.adam(0.1)
        step = trainkit.make_train_step(loss_fn, tx, donate=True)
        params = {"mean": jnp.zeros(()), "none": jnp.zeros((0, 3))}
        state = trainkit.TrainState.create(params, tx)
        data = Sampler(EIGHT, 4)
        result = fit(step, state, data, steps=steps, out=tmp_path, progress=False, report=False)
        assert (result.steps, int(result.state.step)) == (steps, steps)


# -- early stopping and the best -------------------------------------------------------------


def losses(values):
    """An evaluation that finds these losses, by the state's own step."""
    return lambda state: {"loss": values[int(state.step) - 1], "accuracy": -values[0]}


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "stopping", "steps", "best"),
    [
        ([3, 2, 1, 4, 5, 6, 0, 0], EarlyStopping(patience=3), 6, 3),
        ([3, 2, 1, 4, 5, 0, 6, 7], EarlyStopping(patience=3), 8, 6),
        ([9, 8.9, 8.8, 8.7, 1, 1, 1, 1], EarlyStopping(patience=2, min_delta=0.15), 5, 3),
        ([1, 2, 3, 3, 3, 3, 3, 3], EarlyStopping(patience=2, mode="max"), 5, 3),
        ([NAN, NAN, 1, NAN, NAN, 0, 0, 0], EarlyStopping(patience=3), 8, 6),
    ],
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_early_stopping_waits_and_restores_the_best(
    tmp_path, values, stopping, steps, best, on_disk
):
    step, state, data = mean_problem(donate=True)
    options = {"steps": 8, "evaluate": losses(values), "eval_every": 1, "progress": False}
    kept = {}
    result = fit(
        step,
        state,
        data,
        **options,
        early_stopping=stopping,
        hooks=[lambda now: kept.update({now.steps: float(now.state.params["mean"])})],
        out=tmp_path if on_disk else None,
        report=False,
    )
    if values[3] == 8.7:
        # 8.9 is not .15 better than 9, 8.8 is; 8.7 is not better than 8.8 by as much; 1 is.
        steps, best = 7, 5
    assert result.steps == steps
    assert result.best.step == best
    assert int(result.state.step) == best
    if best in kept:
        assert float(result.state.params["mean"]) == kept[best]


def test_the_last_state_is_kept_where_asked():
    step, state, data = mean_problem()
    result = fit(
        step,
        state,
        data,
        steps=4,
        evaluate=losses([1, 2, 3, 4]),
        eval_every=1,
        early_stopping=EarlyStopping(patience=9, restore_best=False),
        progress=False,
    )
    assert int(result.state.step) == 4
    assert (result.best.step, result.evaluation["loss"]) == (1, 4)


def test_patience_survives_an_interruption(tmp_path):
    values = [5, 4, 3, 3, 3, 3, 3, 3, 3, 3]

    def go(hooks=()):
        step, state, data = mean_problem()
        return fit(
            step,
            state,
            data,
            steps=10,
            evaluate=losses(values),
            eval_every=1,
            early_stopping=EarlyStopping(patience=4),
            hooks=hooks,
            out=tmp_path,
            progress=False,
            report=False,
        )

    first = go([lambda now: os.kill(os.getpid(), signal.SIGINT) if now.steps == 4 else None])
    assert first.stopped == "interrupted by SIGINT"
    assert int(first.state.step) == 3  # the best so far is what an interrupted run gives, too
    second = go()
    assert second.stopped == "no better loss in 4 evaluations"
    assert (second.steps, int(second.state.step), second.best.step) == (7, 3, 3)


def test_a_metric_that_no_one_computes_is_named():
    step, state, data = mean_problem()
    with pytest.raises(ValueError, match="no metric 'acuracy'; it has accuracy, loss"):
        fit(
            step,
            state,
            data,
            steps=2,
            evaluate=losses([1, 2]),
            early_stopping=EarlyStopping(metric="acuracy"),
            progress=False,
        )


# -- hooks -----------------------------------------------------------------------------------


def test_a_hook_can_put_another_step_state_and_data_in_place(tmp_path):
    step, state, data = mean_problem()
    other, big, more = mean_problem(np.full(12, 7, np.float32))
    big = big.replace(params={"mean": jnp.float32(7)})

    def grows(now):
        if now.steps == 3:
            big_now = big.replace(step=now.state.step)
            event = {"event": "grown"}
            return trainkit.Change(state=big_now, step=other, data=more, event=event)
        return trainkit.Change(stop="enough") if now.steps == 5 else None

    result = fit(step, state, data, steps=9, hooks=[grows], out=tmp_path, progress=False)
    assert (result.steps, result.stopped) == (5, "enough")
    assert float(result.state.params["mean"]) == 7.0
    events = [row for row in read_metrics(tmp_path) if row["kind"] == "event"]
    assert [(row["step"], row["event"]) for row in events] == [(3, "grown")]


def test_a_hook_keeps_its_memory_over_an_interruption(tmp_path, sigterm):
    class Counts:
        def __init__(self):
            self.calls = 0

        def __call__(self, now):
            self.calls += 1
            if self.calls == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        def save(self):
            return self.calls

        def load(self, saved):
            self.calls = saved

    for calls in (3, 6):
        hook = Counts()
        step, state, data = mean_problem()
        fit(step, state, data, steps=6, hooks=[hook], out=tmp_path, progress=False, report=False)
        assert hook.calls == calls


def test_memory_goes_by_the_hooks_class_and_not_by_its_place(tmp_path):
    class Memory:
        def __init__(self, memory=None):
            self.memory = memory

        def __call__(self, now):
            return None

        def save(self):
            return self.memory

        def load(self, saved):
            self.memory = saved

    class Other(Memory):
        pass

    def go(steps, *hooks):
        step, state, data = mean_problem()
        fit(step, state, data, steps=steps, hooks=hooks, out=tmp_path, progress=False, report=False)
        return [getattr(hook, "memory", None) for hook in hooks]

    go(2, Memory("first"), Other("other"), Memory("second"))
    found = go(3, lambda now: None, Other(), Memory(), Memory())
    assert found == [None, "other", "first", "second"]


# -- a run knows what it is --------------------------------------------------------------------


def known(tmp_path, steps, *, tx=None, values=EIGHT, batch=4, seed=0, resume="same run", **options):
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((batch - params["mean"]) ** 2).sum(), batch.shape[0])

    tx = tx or optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9)
    step = trainkit.make_train_step(loss_fn, tx, **options)
    state = trainkit.TrainState.create({"mean": jnp.zeros(())}, tx)
    return fit(step, state, Sampler(values, batch, seed=seed), steps=steps, log_every=1,
               out=tmp_path, resume=resume, progress=False, report=False)  # fmt: skip


def rounds(replicas, every=2, **options):
    """Replicas that train apart."""
    place = trainkit.placement.periodic(replicas, **options)
    return {"placement": place, "steps_per_call": every}


INJECTED = optax.inject_hyperparams(optax.sgd)
ONE_OTHER = np.concatenate([EIGHT[:5], [9], EIGHT[6:]]).astype(np.float32)


@pytest.mark.parametrize(
    ("then", "now", "named"),
    [
        (
            {"tx": optax.adam(0.1)},
            {"tx": optax.adam(0.1, b1=0.8)},
            "optimizer: constants of the rule",
        ),
        ({"tx": tt.sgd(0.1)}, {"tx": tt.sgd(0.2)}, "optimizer: learning_rate 0.1 there, 0.2 now"),
        (
            {"tx": tt.momentum(0.1)},
            {"tx": tt.nesterov(0.1)},
            "optimizer: another rule, momentum there, nesterov now",
        ),
        ({}, {"tx": INJECTED(0.2, momentum=0.9)}, r"learning_rate: 0\.1\d* there, 0\.2\d* now"),
        ({}, {"seed": 1}, "seed: 0 there, 1 now"),
        ({}, {"batch": 2}, "batch_size: 4 there, 2 now"),
        ({}, {"values": ONE_OTHER}, "content: other values"),
        ({}, {"precision": "bfloat16"}, "precision: "),
        (rounds(2), rounds(4), r"replicas: 2 there, 4 now"),
        (rounds(2), rounds(2, every=1), r"steps between means: 2 there, 1 now"),
        (rounds(2), rounds(2, moments="first"), r'means of moments: "mean" there, "first" now'),
        ({}, rounds(2), r"replicas: nothing there, 2 now"),
    ],
)
def test_another_run_is_not_taken_up_without_a_word(tmp_path, then, now, named):
    known(tmp_path, 2, **then)
    with pytest.raises(ValueError, match=rf"(?s)was begun with other .*{named}"):
        known(tmp_path, 4, **now)
    part = "data" if {"seed", "batch", "values"} & set(now) else "hyperparameters"
    assert known(tmp_path, 4, **now, resume=f"new {part}").steps == 4
    assert known(tmp_path, 6, **now).steps == 6  # it is now what the run is


@pytest.mark.parametrize(
    ("then", "now", "named"),
    [
        (tt.sgd(0.1), tt.adam(0.1), "optimizer: another rule, sgd there, adam now"),
        (
            optax.sgd(0.1),
            optax.adam(0.1),
            "optimizer: another rule, a rule without a state there, ScaleByAdamState now",
        ),
        (
            tt.adam(0.1),
            tt.adam(0.1, mu_dtype=jnp.bfloat16),
            "optimizer: the same rule with another state",
        ),
    ],
)
def test_what_has_no_state_in_the_checkpoints_is_not_advised(tmp_path, then, now, named):
    known(tmp_path, 2, tx=then)
    with pytest.raises(ValueError, match=f"(?s){named}.*give those of then") as caught:
        known(tmp_path, 4, tx=now)
    assert "resume=" not in str(caught.value)
    with pytest.raises(ValueError, match="is of another state"):
        known(tmp_path, 4, tx=now, resume="new hyperparameters")
    assert known(tmp_path, 4, tx=then).steps == 4


def test_other_parameters_are_named_before_their_values(tmp_path):
    def wide(size):
        def loss_fn(params, model_state, batch, rng):
            return trainkit.Loss(((batch - params["mean"].sum()) ** 2).sum(), batch.shape[0])

        tx = tt.adam(0.1)
        state = trainkit.TrainState.create({"mean": jnp.zeros(size)}, tx)
        step = trainkit.make_train_step(loss_fn, tx)
        return fit(step, state, Sampler(EIGHT, 4), steps=2, out=tmp_path, progress=False)

    wide(2)
    with pytest.raises(ValueError, match=r"parameters: other names, shapes or dtypes") as caught:
        wide(3)
    assert "resume=" not in str(caught.value)


def test_only_one_of_two_can_be_new(tmp_path):
    """And each of the ways that the message names is one."""
    sgd, other = tt.sgd(0.1), tt.sgd(0.2)
    for resume in ("same run", "new data", "new hyperparameters"):
        known(tmp_path, 2, tx=sgd, resume=resume)
        with pytest.raises(ValueError, match=r"(?s)hyperparameters and data:.*Only one of the two"):
            known(tmp_path, 4, tx=other, seed=1, resume=resume)
    known(tmp_path, 4, tx=other, resume="new hyperparameters")
    assert known(tmp_path, 6, tx=other, seed=1, resume="new data").steps == 6


def test_a_run_goes_on_over_damage_from_before_it_was_changed(tmp_path, capsys):
    known(tmp_path, 2, tx=INJECTED(0.1))
    known(tmp_path, 4, tx=INJECTED(0.2), resume="new hyperparameters")
    damage(tmp_path, 4, "state")
    assert known(tmp_path, 6, tx=INJECTED(0.2)).steps == 6
    rows = read_metrics(tmp_path)
    rates = [row["learning_rate"] for row in rows if row["kind"] == "train"]
    assert rates == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.2, 0.2])
    assert [row["step"] for row in rows if row["kind"] == "event"] == [2]


def test_where_all_are_damaged_that_is_said(tmp_path):
    known(tmp_path, 2, tx=tt.sgd(0.1))
    known(tmp_path, 4, tx=tt.sgd(0.2), resume="new hyperparameters")
    for step in (2, 4):
        damage(tmp_path, step, "state")
    with pytest.raises(DamagedError, match=r"(?s)step 4 .* is damaged.*step 2 .* is damaged"):
        known(tmp_path, 6, tx=tt.sgd(0.2))


def test_the_damage_that_hides_what_a_run_is_is_named_with_it(tmp_path):
    known(tmp_path, 2, tx=tt.sgd(0.1))
    known(tmp_path, 4, tx=tt.sgd(0.2), resume="new hyperparameters")
    damage(tmp_path, 4, "info")
    with pytest.raises(ValueError, match=r"(?s)step 4 .* is damaged.*learning_rate 0\.1 there"):
        known(tmp_path, 6, tx=tt.sgd(0.2))
    result = known(tmp_path, 6, tx=tt.sgd(0.2), resume="new hyperparameters")
    assert result.steps == 6


def test_a_run_that_goes_on_as_another_can_be_repeated(tmp_path, monkeypatch):
    """By its commands in their order; what is new is an event. A killed run has neither."""
    for rate, steps in ((0.1, 2), (0.1, 2), (0.2, 4), (0.2, 4), (0.1, 6)):
        resume = "new hyperparameters" if steps > 2 else "same run"
        argv = ["train.py", f"--steps={steps}"] + ["--resume", resume] * (steps > 2)
        monkeypatch.setattr("sys.argv", argv)
        known(tmp_path, steps, tx=tt.sgd(rate), resume=resume)
    again = " --resume 'new hyperparameters'"
    commands = ["python train.py --steps=2"] + [
        f"python train.py --steps={n}{again}" for n in (4, 6)
    ]
    assert json.loads((tmp_path / "summary.json").read_text())["commands"] == commands
    events = [row for row in read_metrics(tmp_path) if row["kind"] == "event"]
    assert [(row["step"], row["event"], row["reason"]) for row in events] == [
        (2, "resumed", "new hyperparameters"),
        (4, "resumed", "new hyperparameters"),
    ]
    assert events[0]["changes"] == "optimizer: learning_rate 0.1 there, 0.2 now"
    page = html.unescape(write_report(tmp_path).read_text())
    assert "\n".join(commands) in page
    assert "learning_rate 0.1 there, 0.2 now" in page


def test_another_config_is_an_event_too(tmp_path):
    for size in (1, 2):
        step, state, data = mean_problem()
        resume = "same run" if size == 1 else "new hyperparameters"
        fit(
            step, state, data, steps=size, out=tmp_path, config={"size": size}, resume=resume,
            progress=False, report=False,
        )  # fmt: skip
    events = [row for row in read_metrics(tmp_path) if row["kind"] == "event"]
    assert [row["changes"] for row in events] == ["size: 1 there, 2 now"]


def damage(folder, step, part):
    """Makes every file of a part of a checkpoint another."""
    for file in (folder / "checkpoints" / str(step) / part).rglob("*"):
        if file.is_file() and file.name != "commit_success.txt":
            file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))


def test_how_the_work_is_spread_is_not_what_a_run_is(tmp_path):
    known(tmp_path, 2)
    result = known(tmp_path, 4, placement="jit", devices=2, microbatches=2)
    assert result.steps == 4


def test_new_hyperparameters_are_those_in_force(tmp_path):
    known(tmp_path, 2)
    new = {"tx": INJECTED(0.2, momentum=0.9), "resume": "new hyperparameters"}
    result = known(tmp_path, 3, **new)
    rates = [row["learning_rate"] for row in read_metrics(tmp_path) if row["kind"] == "train"]
    assert rates == pytest.approx([0.1, 0.1, 0.2])
    trace = jax.tree.leaves(result.state.opt_state)
    assert any(float(np.max(np.abs(leaf))) > 1 for leaf in trace)  # the momentum was kept


# -- files and bad input ---------------------------------------------------------------------


def test_a_run_leaves_metrics_summary_and_report(tmp_path):
    step, state, data = mean_problem()
    result = fit(
        step, state, data, steps=4, log_every=1, out=tmp_path / "a" / "b", config={"lr": 0.1},
        progress=False,
    )  # fmt: skip
    folder = tmp_path / "a" / "b"
    assert result.folder == folder
    assert result.report == folder / "report.html"
    assert result.report.is_file()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["config"] == {"lr": 0.1}
    assert summary["steps"] == 4
    assert summary["metrics"]["compile_seconds"] > 0
    rows = read_metrics(folder)
    assert {"loss", "grad_norm", "update_norm", "param_norm", "examples_per_second"} <= set(rows[1])
    assert rows[1]["examples_per_second"] > 0


@pytest.mark.parametrize("steps", [6, 7])
def test_norms_are_asked_for_at_the_steps_that_are_logged(tmp_path, steps):
    step, state, data = mean_problem()
    asked = []

    def counting(state, batch, norms=False):
        asked.append(norms)
        return step(state, batch, norms=norms)

    counting.norms = None
    result = fit(
        counting, step.place(state), data, steps=steps, log_every=3, out=tmp_path, progress=False
    )
    assert [i for i, wanted in enumerate(asked, start=1) if wanted] == [3, 6] + [7] * (steps == 7)
    assert all("grad_norm" in row for row in read_metrics(tmp_path) if row["kind"] == "train")
    assert "grad_norm" in result.metrics


def test_nothing_is_written_without_an_output_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step, state, data = mean_problem()
    fit(step, state, data, steps=2, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "would never end: give it steps="),
        ({"steps": 0}, "steps must be an integer of at least 1, not 0"),
        ({"epochs": -1}, "epochs must be .*not -1"),
        ({"steps": 2, "log_every": 0}, "log_every must be .*not 0"),
        ({"steps": 2, "eval_every": 1.5}, "eval_every must be .*not 1.5"),
        ({"steps": 2, "checkpoint_every": -3}, "checkpoint_every must be .*not -3"),
        ({"steps": 2, "prefetch": -1}, "prefetch must be .*not -1"),
        ({"steps": 2, "keep": 0}, "keep must be an integer of at least 1, not 0"),
        ({"steps": 2, "best_mode": "most"}, "best_mode must be 'min' or 'max', not 'most'"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(tmp_path, options, message):
    step, state, data = mean_problem()
    with pytest.raises(ValueError, match=message):
        fit(step, state, data, **options, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    assert step.compiles == 0


def test_a_run_with_another_config_is_refused_before_compiling(tmp_path):
    step, state, data = mean_problem()
    options = {"steps": 2, "out": tmp_path, "progress": False, "report": False}
    fit(step, state, data, config={"lr": 0.1}, **options)
    step, state, data = mean_problem()
    with pytest.raises(trainkit.loop.run_folder.OutputError, match=r"lr: 0\.1 there, 0\.2 now"):
        fit(step, state, data, config={"lr": 0.2}, **options)
    assert step.compiles == 0
    result = fit(step, state, data, config={"lr": 0.2}, overwrite=True, **options)
    assert result.steps == 2


def test_a_budget_that_is_no_multiple_of_a_call_is_refused():
    step, state, data = mean_problem(steps_per_call=4)
    with pytest.raises(ValueError, match="steps=6 is not a multiple of the step's steps_per_call"):
        fit(step, state, data, steps=6, progress=False)


def test_the_resumable_run_is_no_trivial_one(undisturbed):
    """The test above could not fail if nothing depended on keys, order or moments."""
    _, expected = undisturbed("single")
    assert int(expected.state.model_state["count"]) == STEPS
    assert not np.allclose(expected.state.params["b"], 0)
    assert DATA["x"].shape[0] % 16


def test_checkpoints_are_kept_as_fit_is_told(tmp_path):
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((batch - params["mean"]) ** 2).sum(), len(batch))

    tx = optax.sgd(0.1)
    step = trainkit.make_train_step(loss_fn, tx)
    state = trainkit.TrainState.create({"mean": jnp.zeros(())}, tx)
    data = lambda: Sampler(np.ones(8, np.float32), 4)
    options = {"steps": 12, "checkpoint_every": 2, "progress": False, "report": False}
    fit(step, state, data(), out=tmp_path, keep=1, keep_best=0, keep_every=5, **options)
    assert trainkit.checkpoint.Checkpointer(tmp_path / "checkpoints").steps == [6, 10, 12]
    for wrong in ({"keep_every": 0}, {"keep_seconds": -1.0}, {"keep_best": -1}, {"keep": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            fit(step, state, data(), out=tmp_path / "other", **options, **wrong)
    assert not (tmp_path / "other").exists()


# -- one memory for all states -----------------------------------------------------------------


def test_the_states_of_a_run_share_a_memory_and_the_callers_is_kept():
    kept = []
    step, state, data = mean_problem()
    result = fit(step, state, data, steps=4, hooks=[lambda now: kept.append(now.state)],
                 progress=False)  # fmt: skip
    assert [x.params["mean"].is_deleted() for x in kept] == [True] * 4
    assert not state.params["mean"].is_deleted()
    assert np.isfinite(result.state.params["mean"])
    assert step.compiles == 1
    with pytest.raises(ValueError, match=r"deleted: fit, a step .* keep a copy: step\.place"):
        step(kept[1], jnp.ones(4))
    step(result.state, jnp.ones(4))  # called by hand it donates nothing
    assert not result.state.params["mean"].is_deleted()
    assert step.compiles == 2


def test_a_loss_that_prints_is_trained_and_its_error_is_not_a_state_that_is_gone(capfd):
    def problem(called):
        def loss_fn(params, model_state, batch, rng):
            called(params["mean"])
            return trainkit.Loss(((batch - params["mean"]) ** 2).sum(), 4)

        tx = optax.sgd(0.1)
        state = trainkit.TrainState.create({"mean": jnp.zeros(())}, tx)
        return trainkit.make_train_step(loss_fn, tx), state, Sampler(EIGHT, 4)

    fit(*problem(lambda x: jax.debug.print("mean={x}", x=x)), steps=2, progress=False)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("mean=") == 2

    def fails(x):
        def refuse(x):
            raise ValueError("a word of mine")

        jax.debug.callback(refuse, x)

    with pytest.raises(Exception, match="a word of mine"):
        jax.block_until_ready(fit(*problem(fails), steps=3, progress=False).state)


def test_a_step_that_shall_not_donate_leaves_every_state_alone():
    kept = []
    step, state, data = mean_problem(donate=False)
    fit(step, state, data, steps=4, hooks=[lambda now: kept.append(now.state)], progress=False)
    assert not any(x.params["mean"].is_deleted() for x in kept)
