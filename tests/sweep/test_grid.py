"""A sweep gives what the runs give one by one, from one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit import schedules
from trainkit.sweep import sweep, sweep_training

DATA = jnp.asarray(np.random.default_rng(0).normal(size=(30, 8, 3)), jnp.float32)


def loss_fn(params, model_state, batch, rng):
    return trainkit.Loss(jnp.sum((batch @ params["w"] - 1.0) ** 2), jnp.float32(len(batch)))


def init(key):
    return {"w": jax.random.normal(key, (3,))}


def test_training_in_a_sweep_is_training_alone():
    rates, seeds = [1e-3, 1e-2, 1e-1], [0, 5]
    make = lambda learning_rate, weight_decay: tt.adamw(learning_rate, weight_decay=weight_decay)
    result = sweep_training(
        loss_fn, make, init, DATA, learning_rate=rates, weight_decay=[0.0, 0.1], seeds=seeds
    )
    assert result.results["loss"].shape == (3, 2, 2, 30)
    assert list(result.axes) == ["learning_rate", "weight_decay", "seed"]
    for i, rate in enumerate(rates):
        tx = tt.adamw(rate, weight_decay=0.1)
        step = trainkit.make_train_step(loss_fn, tx)
        state = step.place(trainkit.TrainState.create(init(jax.random.key(5)), tx))
        for batch in DATA:
            state, _ = step(state, batch)
        # β₂ and the rate are traced scalars in the sweep: 1 − β is rounded once more.
        assert jnp.allclose(result.results["params"]["w"][i, 1, 1], state.params["w"], atol=1e-4)
    point, value = result.best(result.results["loss"][..., -1])
    assert point["learning_rate"] == pytest.approx(0.1)
    assert value == float(result.results["loss"][..., -1].min())


def test_one_compilation_whatever_the_batch():
    traces = []

    def run(a, b):
        traces.append(1)
        return {"sum": a + b.astype(jnp.float32), "both": jnp.stack([a, a])}

    whole = sweep(run, a=[1.0, 2.0, 3.0], b=[10, 20, 30])
    assert len(traces) == 1
    parts = sweep(run, batch=4, a=[1.0, 2.0, 3.0], b=[10, 20, 30])
    assert len(traces) == 2
    expected = np.add.outer([1, 2, 3], [10, 20, 30])
    assert np.array_equal(whole.results["sum"], expected)
    assert np.array_equal(parts.results["sum"], expected)
    assert parts.results["both"].shape == (3, 3, 2)


def test_schedules_are_built_from_swept_values():
    make = lambda peak: tt.sgd(lambda t: peak * schedules.cosine(1.0, 30)(t))
    result = sweep_training(loss_fn, make, init, DATA, peak=[0.0, 0.05])
    losses = result.results["loss"]
    assert float(losses[1, 0, -5:].mean()) < float(losses[0, 0, -5:].mean())


def test_bad_input_and_nan():
    with pytest.raises(ValueError, match="at least one axis"):
        sweep(lambda: 0)
    with pytest.raises(ValueError, match="'a'"):
        sweep(lambda a: a, a=[])
    with pytest.raises(ValueError, match="'a'"):
        sweep(lambda a: a, a=["x"])
    with pytest.raises(ValueError, match="batch"):
        sweep(lambda a: a, batch=0, a=[1.0])
    s = sweep(lambda a: jnp.where(a > 1, jnp.nan, a), a=[0.5, 1.0, 2.0])
    assert s.best(s.results)[0] == {"a": 0.5}
    assert s.best(s.results, "max")[0] == {"a": 1.0}
    with pytest.raises(ValueError, match="NaN"):
        s.best(s.results * jnp.nan)
    with pytest.raises(ValueError, match="shape"):
        s.best(s.results[:2])
