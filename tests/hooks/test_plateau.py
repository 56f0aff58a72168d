"""A rate that falls where an evaluation no longer improves, over interruptions too."""

import signal

import jax.numpy as jnp
import numpy as np
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit._core.run_files import read_metrics
from trainkit.data import Sampler
from trainkit.hooks import ReduceOnPlateau

LOSSES = [5.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]


def run(out, hooks, tx=None, steps=20):
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((batch - params["mean"]) ** 2).sum(), batch.shape[0])

    tx = tx or tt.inject(tt.sgd(0.1))
    step = trainkit.make_train_step(loss_fn, tx)
    return trainkit.fit(
        step,
        trainkit.TrainState.create({"mean": jnp.zeros(())}, tx),
        Sampler(np.arange(8, dtype=np.float32), 4),
        steps=steps,
        evaluate=lambda state: {"loss": LOSSES[int(state.step) // 2 - 1]},
        eval_every=2,
        hooks=hooks,
        log_every=1,
        out=out,
        progress=False,
        report=False,
    )


def rates(out):
    return [row["learning_rate"] for row in read_metrics(out) if row["kind"] == "train"]


def test_the_rate_falls_at_plateaus_and_interruptions_change_nothing(tmp_path):
    made = lambda: ReduceOnPlateau(factor=0.5, patience=2)
    want = run(tmp_path / "whole", [made()])
    falling = [0.1] * 8 + [0.05] * 6 + [0.025] * 4 + [0.0125] * 2
    assert rates(tmp_path / "whole") == pytest.approx(falling)

    def interrupt(now):
        if now.steps == at:
            signal.raise_signal(signal.SIGINT)

    for at in (8, 12):
        assert run(tmp_path / "cut", [made(), interrupt]).steps == at + 1
    found = run(tmp_path / "cut", [made()])
    assert found.state.params["mean"] == want.state.params["mean"]
    assert rates(tmp_path / "cut") == rates(tmp_path / "whole")
    events = [row["step"] for row in read_metrics(tmp_path / "cut") if row["kind"] == "event"]
    assert events == [8, 14, 18]


def test_rates_of_groups_are_reduced_by_name(tmp_path):
    tx = tt.groups([("mean", tt.sgd(0.1))])
    run(tmp_path, [ReduceOnPlateau(patience=2, rate=[("mean", "learning_rate")])], tx)
    assert rates(tmp_path)[-1] == pytest.approx(1e-4)


def test_what_is_wrong_is_named():
    with pytest.raises(TypeError, match="patiense"):
        ReduceOnPlateau(patiense=3)
    with pytest.raises(ValueError, match="factor must be"):
        ReduceOnPlateau(factor=2.0)
    with pytest.raises(ValueError, match="has no metric 'accuracy'; it has loss"):
        run(None, [ReduceOnPlateau("accuracy")])
    with pytest.raises(KeyError, match="nothing named 'learning_rate'"):
        run(None, [ReduceOnPlateau(patience=2)], tx=tt.sgd(0.1))
