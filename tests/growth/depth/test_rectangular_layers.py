"""New layers with matrices that are not square, behind zeros that make identities of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth.zoo.building import equinox_build, randomised
from trainkit import growth


class AttentionAndDense(eqx.Module):
    norms: list
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP

    def __init__(self):
        key = jax.random.key(0)
        self.norms = [eqx.nn.LayerNorm(4) for _ in range(2)]
        self.attention = eqx.nn.MultiheadAttention(2, 4, key=key)
        self.mlp = eqx.nn.MLP(4, 4, 5, 1, jax.nn.gelu, key=key)

    def __call__(self, x):
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attention(y, y, y)
        return x + jax.vmap(lambda v: self.mlp(self.norms[1](v)))(x)


class ReadByACell(eqx.Module):
    blocks: list
    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear

    def __init__(self, depth):
        self.blocks = [AttentionAndDense() for _ in range(depth)]
        self.cell = eqx.nn.GRUCell(4, 3, key=jax.random.key(0))
        self.out = eqx.nn.Linear(3, 3, key=jax.random.key(0))

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        state, _ = jax.lax.scan(lambda h, v: (self.cell(v, h), None), jnp.zeros(3, x.dtype), x)
        return self.out(state)


def test_a_dense_layer_behind_zeros_need_not_be_an_identity():
    (small, before), (big, after) = (equinox_build(ReadByACell)(depth=n) for n in (2, 3))
    params = randomised(before)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    plan = growth.plan(small, big, params, after, x)
    grown = plan.grow(params, key=jax.random.key(0))
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, after)
    # Attention without biases: its identity is that of zeros, as that of the network behind it.
    np.testing.assert_array_equal(small(params, x), big(grown, x))


def narrowed(p, x):
    """Layers in front of their input, and pairs of layers through another width."""
    h = jax.nn.relu(jnp.einsum("bix,io->box", x, p["into"]))
    for w in p["mixed"]:
        h = jax.nn.relu(jnp.einsum("bix,io->box", h, w))
    h = jnp.moveaxis(h, 1, -1)
    for q in p["pairs"]:
        h = jax.nn.relu(jax.nn.relu(h @ q["there"]) @ q["back"])
    return h @ p["from"]


def stacked_pairs(p, x):
    """Such pairs as rows of arrays, picked by number."""
    h = jax.nn.relu(jnp.moveaxis(x, 1, -1) @ p["into"])
    for i in range(len(p["there"])):
        h = jax.nn.relu(jax.nn.relu(h @ p["there"][i]) @ p["back"][i])
    return h @ p["from"]


def pairs(middle):
    def of(depth, n):
        each = {"there": (n, middle), "back": (middle, n)}
        ends = {"into": (4, n), "from": (n, 2)}
        return ends | {"mixed": [(n, n)] * depth, "pairs": [each] * depth}

    return of


def rows(middle):
    def of(depth, n):
        each = {"there": (depth, n, middle), "back": (depth, middle, n)}
        return {"into": (4, n), "from": (n, 2)} | each

    return of


@pytest.mark.parametrize(("depth", "width"), [(3, 4), (3, 6), (3, 8)])
@pytest.mark.parametrize("middle", [2, 3, 4, 6])
@pytest.mark.parametrize(("fn", "sizes"), [(narrowed, pairs), (stacked_pairs, rows)])
def test_no_unit_is_dropped(fn, sizes, middle, depth, width, x64):
    """An identity through fewer units is none, at the big width too."""
    rng = np.random.default_rng(0)
    one = lambda s: jnp.asarray(rng.normal(0.3, 0.5, size=s))
    draw = lambda tree: jax.tree.map(one, tree, is_leaf=lambda s: isinstance(s, tuple))
    x = np.abs(rng.normal(size=(5, 4, 3)))
    small, big = draw(sizes(middle)(2, 4)), draw(sizes(middle)(depth, width))
    try:
        plan = growth.plan(fn, fn, small, big, x)
    except growth.GrowthError:
        assert middle < width
    else:
        assert middle >= width
        grown = plan.grow(small, key=jax.random.key(0))
        np.testing.assert_allclose(fn(grown, x), fn(small, x), rtol=1e-12, atol=1e-12)
