"""Layers without names of their own: blocks in one compact module, told by the order of reading."""

from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from tests.growth.zoo.depth.linen_modules import IMAGES, SEQUENCE, PostNorm, PreNorm, Stages
from trainkit import TrainState, growth
from trainkit._core.paths import named_leaves
from trainkit.growth import GrowthError
from trainkit.growth.depth.program_order import in_order, readings


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


class Grown(NamedTuple):
    before: TrainState
    state: TrainState
    way: growth.GrowthMap


def grown(small, big, x, how):
    params = jax.jit(small.init)(jax.random.key(0), x)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda w: w + 0.1 * rng.normal(size=w.shape), params)
    tx = optax.adam(1e-2)
    _, moments = tx.update(jax.tree.map(lambda w: w + 1.0, params), tx.init(params), params)
    state = TrainState.create(params, tx).replace(opt_state=moments)
    big_state, way = growth.grow(state, small, big, x, tx=tx, how=how, with_map=True)
    before = jax.jit(small.apply)({"params": params}, x)
    after = jax.jit(big.apply)({"params": big_state.params}, x)
    return Grown(state, big_state, way.under("params")), float(np.abs(after - before).max())


@pytest.mark.parametrize(
    ("small", "big", "x", "how"),
    [
        (PreNorm(2), PreNorm(4, 16), SEQUENCE, "preserve"),
        pytest.param(PreNorm(1), PreNorm(3), SEQUENCE, "preserve", marks=pytest.mark.slow),
        pytest.param(
            Stages((1, 2)), Stages((3, 3), 16), IMAGES, "even+identity", marks=pytest.mark.slow
        ),
    ],
)
def test_identity(small, big, x, how):
    result, error = grown(small, big, x, how)
    assert error < 1e-12
    new = set(result.way.new)
    assert new
    mu = named_leaves(result.state.opt_state[0].mu)
    assert not any(np.any(mu[name]) for name in new)
    assert all(np.any(m) for name, m in mu.items() if name not in new)


def test_stacking_copies_whole_blocks():
    result, error = grown(PreNorm(2), PreNorm(4), SEQUENCE, "stack")
    assert error > 1e-3
    old, new = jax.tree.map(np.asarray, (result.before.params, result.state.params))
    for i, j in enumerate((0, 1, 0, 1)):
        for name in ("LayerNorm", "Dense"):
            for part in (0, 1):
                a = new[f"{name}_{2 * i + part + (name == 'Dense')}"]
                b = old[f"{name}_{2 * j + part + (name == 'Dense')}"]
                jax.tree.map(np.testing.assert_array_equal, a, b)
        kind = "MultiHeadDotProductAttention_"
        jax.tree.map(np.testing.assert_array_equal, new[f"{kind}{i}"], old[f"{kind}{j}"])
    for a, b in (("LayerNorm_8", "LayerNorm_4"), ("Dense_9", "Dense_5")):
        jax.tree.map(np.testing.assert_array_equal, new[a], old[b])


def test_where_a_block_begins():
    """Behind a norm of the input, [norm, layers] and [layers, norm] are blocks alike."""
    result, _ = grown(PostNorm(2), PostNorm(4), SEQUENCE, "interpose")
    came = {n: o.leaf for n, o in result.way.origin.items() if o.new and "scale" in n}
    norm = "LayerNorm_{}/scale".format
    assert came == {norm(1): norm(0), norm(3): norm(1)}
    with pytest.raises(GrowthError, match=r"where a block begins.*LayerNorm_.*") as refused:
        grown(PostNorm(2, first=True), PostNorm(4, first=True), SEQUENCE, "stack")
    assert 'name=f"block_{i}"' in str(refused.value)


def test_cuts_of_two_stages():
    part = lambda *names: {f"{name}/w": (2, 2) for name in names}
    stage = lambda size, *names: {f"{name}/w": (size, size) for name in names}
    small = {**part("a_0"), **stage(4, "b_0"), **part("c"), **stage(8, "b_1", "b_2"), **part("d")}
    big = {
        **part("a_0"), **stage(4, "b_0", "b_1"), **part("c"),
        **stage(8, "b_2", "b_3", "b_4"), **part("d"),
    }  # fmt: skip
    (cut,) = readings(small, big)
    came = {name: (come.leaf, come.new) for name, come in cut.origin("last").items()}
    assert came["b_1/w"] == ("b_0/w", True)
    assert came["b_3/w"] == ("b_2/w", False)
    assert came["b_4/w"] == ("b_2/w", True)
    assert in_order(cut.origin("stack"), small, big)
    assert readings(big, small) == []
