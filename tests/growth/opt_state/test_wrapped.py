"""Whole training states with wrappers, grown in the middle of what they do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt
from trainkit import TrainState, growth


@pytest.fixture(autouse=True)
def _mode(x64):
    # Optax itself mixes dtypes in ways that the strict mode refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, param_dtype=jnp.float64)(x)
        norm = nn.BatchNorm(use_running_average=True, param_dtype=jnp.float64, dtype=jnp.float64)
        return nn.Dense(3, param_dtype=jnp.float64)(nn.gelu(norm(x)))


X = np.random.default_rng(0).normal(size=(4, 5))
kernels = lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)
label = lambda tree: jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "rest", tree)

RULES = {
    "multi-steps": lambda: optax.MultiSteps(optax.adam(1e-2), 3).gradient_transformation(),
    "accumulate": lambda: tt.accumulate(optax.adam(1e-2), 3),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(1e-2),
    "masked": lambda: optax.chain(
        optax.masked(optax.trace(0.9), kernels), optax.add_decayed_weights(0.1, kernels),
        optax.scale(-1e-2),
    ),
    "partition": lambda: optax.partition(
        {"matrix": optax.contrib.muon(1e-2), "rest": optax.adam(1e-2)}, label
    ),
    "frozen": lambda: optax.multi_transform(
        {"matrix": optax.lion(1e-3), "rest": optax.set_to_zero()}, label
    ),
    "groups": lambda: tt.groups([("Dense_0", tt.adam(1e-2)), ("", tt.sgd(1e-2, momentum=0.9))]),
    "schedule-free": lambda: optax.contrib.schedule_free_sgd(1e-2),
    "averages": lambda: tt.average_params(optax.adam(1e-2), 0.9),
}  # fmt: skip
DEFAULT = ("accumulate", "partition")


def run(net, tx, state, steps):
    def loss(params):
        out = net.apply({"params": params, **state.model_state}, X)
        return jnp.mean(jnp.sin(out) * jnp.arange(1.0, 4.0))

    @jax.jit
    def step(params, opt_state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params, opt_state, values = state.params, state.opt_state, []
    for _ in range(steps):
        params, opt_state, value = step(params, opt_state)
        values.append(value)
    return state.replace(params=params, opt_state=opt_state), np.asarray(values)


@pytest.mark.parametrize(
    "name", [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in RULES]
)
def test_goes_on_in_the_middle(name):
    tx, small, big = RULES[name](), Net(4), Net(7)
    variables = dict(small.init(jax.random.key(0), X))
    rng = np.random.default_rng(1)
    shaken = jax.tree.map(lambda x: x + rng.uniform(0.1, 0.5, x.shape), variables)
    state = TrainState.create(shaken.pop("params"), tx, model_state=shaken)
    state, _ = run(small, tx, state, 4)  # four micro-steps: one of three is accumulated
    grown, way = growth.grow(state, small, big, X, tx=tx, with_map=True)
    fresh = jax.eval_shape(tx.init, grown.params)
    assert jax.tree.structure(grown.opt_state) == jax.tree.structure(fresh)
    shapes = jax.tree.map(jnp.shape, grown.opt_state)
    assert shapes == jax.tree.map(lambda s: s.shape, fresh)
    _, expected = run(small, tx, state, 6)
    _, found = run(big, way.under("params").exact(tx), grown, 6)
    # MultiSteps sums in float32.
    np.testing.assert_allclose(found, expected, atol=1e-6 if name == "multi-steps" else 1e-11)
    assert np.ptp(expected) > 1e-4
