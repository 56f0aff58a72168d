"""Complex parameters go down: least squares on a complex matrix, beside NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit import sweep


def loss_fn(params, model_state, batch, rng):
    error = batch["x"] @ params["w"] + params["b"].astype(jnp.complex64) - batch["y"]
    return trainkit.Loss((error.real**2 + error.imag**2).sum(), len(error))


def draw(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


BATCH = {"x": draw(16, 3), "y": draw(16, 2, seed=1)}
PARAMS = {"w": draw(3, 2, seed=2), "b": np.zeros(2, np.float32)}


def gradients(params):
    """∂L/∂x + i ∂L/∂y of the mean over the batch, in float64."""
    x, y = (BATCH[k].astype(np.complex128) for k in ("x", "y"))
    error = x @ params["w"] + params["b"] - y
    return {"w": 2 * x.conj().T @ error / 16, "b": 2 * error.real.sum(0) / 16}


def reference(step, count):
    params = {k: v.astype(np.result_type(v, np.float64)) for k, v in PARAMS.items()}
    for t in range(1, count + 1):
        for k, g in gradients(params).items():
            params[k] = params[k] + step(k, g, t)
    return params


def adam(rate):
    held = dict.fromkeys(PARAMS, (0, 0))

    def step(k, g, t):
        mu, nu = held[k]
        held[k] = mu, nu = 0.9 * mu + 0.1 * g, 0.999 * nu + 0.001 * np.abs(g) ** 2
        return -rate * mu / (1 - 0.9**t) / (np.sqrt(nu / (1 - 0.999**t)) + 1e-8)

    return step


RULES = {
    "sgd": (lambda: tt.sgd(0.1), lambda: lambda k, g, t: -0.1 * g),
    "adam": (lambda: tt.adam(0.1), lambda: adam(0.1)),
}


def trained(tx, count, **options):
    step = trainkit.make_train_step(loss_fn, tx, **options)
    state = step.place(trainkit.TrainState.create(jax.tree.map(jnp.asarray, PARAMS), tx))
    losses = []
    for _ in range(count):
        state, metrics = step(state, BATCH, norms=True)
        losses.append(float(metrics["loss"]))
    return state, losses, metrics


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("placement", ["single", "shard_map", "jit"])
@pytest.mark.parametrize("rule", RULES)
def test_least_squares_goes_down_as_in_numpy(rule, placement, microbatches):
    make, by_hand = RULES[rule]
    state, losses, _ = trained(make(), 20, placement=placement, microbatches=microbatches)
    for k, want in reference(by_hand(), 20).items():
        # float32 rounding of 20 steps, Adam's divided by √ν
        np.testing.assert_allclose(state.params[k], want, rtol=2e-4, atol=2e-5)
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_presets_keep_the_imaginary_part(precision):
    state, _, _ = trained(tt.sgd(0.1), 20, precision=precision)
    want = reference(RULES["sgd"][1](), 20)
    np.testing.assert_allclose(state.params["w"], want["w"], rtol=1e-4, atol=1e-4)


def test_norms_and_clipping_see_both_parts():
    tx = tt.chain(tt.clip_by_global_norm(0.5), tt.sgd(0.1))
    _, _, metrics = trained(tx, 1)
    size = np.sqrt(sum((np.abs(g) ** 2).sum() for g in gradients(PARAMS).values()))
    assert metrics["grad_norm"] == pytest.approx(size, rel=1e-5)
    assert metrics["update_norm"] == pytest.approx(0.05, rel=1e-5)


def test_a_sweep_goes_down_too():
    found = sweep.sweep_training(
        lambda p, s, batch, rng: trainkit.Loss(jnp.abs(p - (1 + 2j)) ** 2, jnp.float32(1)),
        tt.sgd,
        lambda key: jnp.zeros((), jnp.complex64),
        jnp.zeros((50, 1)),
        learning_rate=[0.1],
        seeds=[0],
    )
    np.testing.assert_allclose(np.ravel(found.results["params"]), [1 + 2j], rtol=1e-4)
