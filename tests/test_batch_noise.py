"""The noise scale of a mean is that of its data, whatever the size of the batches."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from trainkit.data import Sampler

SIGMA = np.array([1.0, 2.0, 0.5])
DATA = np.random.default_rng(0).normal(1.5, SIGMA, (4000, 3)).astype(np.float32)
STATE = trainkit.TrainState.create({"mean": jnp.zeros(3)}, optax.sgd(0.1))


def loss_fn(params, model_state, batch, rng):
    error = params["mean"] - batch["x"]
    return trainkit.Loss(0.5 * (error**2).sum(), len(error))


@pytest.mark.parametrize("size", [5, 40])
def test_it_is_variance_over_squared_gradient(size):
    data = Sampler({"x": DATA}, size, seed=0)
    found = trainkit.noise_scale(loss_fn, STATE, data, batches=4000 // size)
    # The gradient of one example is −x: its variances are those of the data, all of which are seen.
    noise, signal = DATA.var(0, ddof=1).sum(), (DATA.mean(0) ** 2).sum()
    # Of n batches the variance is known to √(2 / n) of itself and better, as there are three sums.
    assert found.noise == pytest.approx(noise, rel=2 * (2 * size / 4000) ** 0.5)
    assert found.gradient == pytest.approx(signal, rel=0.01)
    assert found.examples == pytest.approx(found.noise / found.gradient)
    assert found.batches == 4000 // size


def test_where_the_gradient_is_lost_in_noise_it_is_infinite():
    there = STATE.replace(params={"mean": jnp.asarray(DATA.mean(0))})
    rows = [{"x": DATA[at : at + 4]} for at in range(0, 40, 4)]
    rows += [{"x": 2 * DATA.mean(0) - batch["x"]} for batch in rows]  # the mean is the state's
    assert trainkit.noise_scale(loss_fn, there, rows).examples == np.inf


def test_what_it_cannot_use_is_said():
    rows = [{"x": DATA[:4]}, {"x": DATA[:3]}]
    with pytest.raises(ValueError, match=r"batches of one size.* 4 and of 3 examples: give a Samp"):
        trainkit.noise_scale(loss_fn, STATE, rows)
    with pytest.raises(ValueError, match="2 batches or more, not 1"):
        trainkit.noise_scale(loss_fn, STATE, rows[:1])
    with pytest.raises(ValueError, match="batches"):
        trainkit.noise_scale(loss_fn, STATE, rows, batches=1)
