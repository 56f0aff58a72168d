"""The rate that is suggested trains, and one far from it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit.data import Sampler
from trainkit.rate_finder import find_rate

CURVATURE = 5.0  # of the loss: gradient descent diverges from a rate of 2 / CURVATURE
TX = tt.inject(tt.sgd(1e-3))


def problem(tx=TX):
    def loss_fn(params, model_state, batch, rng):
        error = params["w"] - 3.0 + 0.01 * batch.mean(0)
        return trainkit.Loss(len(batch) * CURVATURE / 2 * (error**2).sum(), len(batch))

    rng = np.random.default_rng(0)
    data = Sampler(rng.normal(size=(64, 4)).astype(np.float32), 8)
    state = trainkit.TrainState.create({"w": jnp.zeros(4)}, tx)
    return trainkit.make_train_step(loss_fn, tx, donate=True), state, data


def test_the_suggestion_lies_where_the_loss_falls_and_nothing_has_changed(tmp_path):
    step, state, data = problem()
    next(data)
    before = data.position
    found = find_rate(step, state, data, steps=60)
    assert 0.02 / CURVATURE < found.suggestion < 2 / CURVATURE
    assert found.rates[0] == pytest.approx(1e-6)
    assert found.rates[-1] < 10  # it ended once the loss had grown
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    assert data.position == before
    assert not jax.tree.leaves(state.params)[0].is_deleted()
    found.plot(tmp_path / "rates.svg")
    assert (tmp_path / "rates.svg").read_text().count("<path") > 3
    tuned = state.replace(opt_state=tt.set(state.opt_state, "learning_rate", found.suggestion))
    assert trainkit.fit(step, tuned, data, steps=80, progress=False).metrics["loss"] < 0.1


def test_what_never_falls_has_no_suggestion_and_data_may_end():
    step, state, data = problem()
    assert find_rate(step, state, data, low=1e3, high=1e4, steps=10).suggestion is None
    batches = [next(data) for _ in range(4)]
    assert len(find_rate(step, state, iter(batches), high=1e-3, steps=10).rates) == 4
    assert len(find_rate(step, state, batches, high=1e-3, steps=10).rates) == 10


def test_what_is_wrong_is_named():
    step, state, data = problem()
    for options, name in (({"low": 0.0}, "low"), ({"high": 1e-9}, "high"), ({"steps": 3}, "steps")):
        with pytest.raises(ValueError, match=f"{name} must be"):
            find_rate(step, state, data, **options)
    with pytest.raises(KeyError, match="nothing named 'learning_rate'"):
        find_rate(*problem(optax.sgd(0.1)))
