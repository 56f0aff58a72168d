"""New layers with matrices that are not square, behind zeros that make identities of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

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
