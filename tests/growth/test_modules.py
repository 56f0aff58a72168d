"""Depth and width of NNX and Equinox modules, however they hold their layers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.growth.zoo.depth.libraries import EqxLayers, NnxLayers, X
from trainkit import TrainState, growth


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


def shaken(tree):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: x + 0.2 * rng.normal(size=x.shape) if jnp.issubdtype(x.dtype, jnp.inexact) else x,
        tree,
    )


def started(params, tx, **more):
    state = TrainState.create(params, tx, **more)
    grads = jax.tree.map(jnp.cos, params)
    return state.replace(opt_state=tx.update(grads, state.opt_state, params)[1])


def split(module):
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return graph, nnx.to_pure_dict(params), rest


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("list", "sequential")), "stacked"],
)
def test_nnx(kind):
    make = lambda *size: NnxLayers(*size, kind, rngs=nnx.Rngs(0))
    small, big = make(6, 8, 2), lambda rngs: NnxLayers(12, 20, 4, kind, rngs=rngs)
    graph, params, rest = split(small)
    tx = optax.adamw(1e-2)
    state = started(shaken(params), tx)
    grown, way = growth.grow(state, small, big, X, tx=tx, with_map=True)
    before = nnx.merge(graph, state.params, rest)(X)
    wide, _, others = split(make(12, 20, 4))
    after = nnx.merge(wide, grown.params, others)(X)
    np.testing.assert_allclose(after, before, atol=1e-12)
    assert any("down" in name for name in way.zeroed)
    new = jax.tree.map(jnp.shape, split(make(12, 20, 4))[1])
    assert jax.tree.map(jnp.shape, grown.params) == new
    assert jax.tree.map(jnp.shape, grown.opt_state[0].mu) == new


@pytest.mark.parametrize("depth", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_equinox(depth):
    """Arrays apart from the rest, as Equinox does it; a module carries its sizes, so `like`."""
    parts = [eqx.partition(EqxLayers(*size), eqx.is_array) for size in ((6, 8, 2), (12, 20, depth))]
    (small, rest), (big, big_rest) = parts
    small = shaken(small)
    fns = [lambda p, x, r=r: jax.vmap(eqx.combine(p, r))(x) for r in (rest, big_rest)]
    plan = growth.plan(*fns, small, big, X)
    key = jax.random.key(0)
    grown = plan.grow(small, key=key, like=big)
    np.testing.assert_allclose(fns[1](grown, X), fns[0](small, X), atol=1e-12)
    assert jax.tree.structure(grown) == jax.tree.structure(big)
    tx = optax.adamw(1e-2)
    state = started(small, tx)
    moments = plan.realise(key).opt_state(tx, state.opt_state, small, grown)
    fresh = jax.eval_shape(tx.init, grown)
    assert jax.tree.map(jnp.shape, moments) == jax.tree.map(lambda s: s.shape, fresh)
    whole = growth.grow(state, *fns, X, tx=tx, big_params=big, key=key)
    np.testing.assert_allclose(fns[1](whole.params, X), fns[0](small, X), atol=1e-12)
