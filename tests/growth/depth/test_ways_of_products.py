"""New layers between ReLUs, however the products with their matrices are written."""

from __future__ import annotations

import functools
import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
DENSE = functools.partial(nn.Dense, param_dtype=jnp.float64)
X = np.random.default_rng(0).normal(size=(4, 3))
WAYS = {
    "x @ w.T": lambda w, x: x @ w.T,
    "w @ x": lambda w, x: jax.vmap(lambda row: w @ row)(x),
    "(w @ x.T).T": lambda w, x: (w @ x.T).T,
    "einsum": lambda w, x: jnp.einsum("oi,bi->bo", w, x),
    "of one row": lambda w, x: w @ (x[0] if x.ndim == 2 else x),
}


def by(product):
    def fn(layers, x):
        *hidden, last = layers
        for layer in hidden:
            x = jax.nn.relu(product(layer["w"], x) + layer["b"])
        return product(last["w"], x)

    return fn


def draw(hidden, width):
    rng = np.random.default_rng(1)
    sizes = [3] + [width] * hidden + [2]
    one = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-1]))
    return [{"w": one(m, n), "b": one(m)} for n, m in itertools.pairwise(sizes)]


@pytest.mark.parametrize("width", [6, 9, 12])
@pytest.mark.parametrize("way", WAYS)
def test_an_identity_matrix_stands_on_either_side(way, width):
    fn, small, big = by(WAYS[way]), draw(1, 6), draw(3, width)
    grown = growth.plan(fn, fn, small, big, X).grow(small, key=jax.random.key(0))
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
    np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=0, atol=1e-13)


def test_a_turned_result_is_not_the_operand():
    """In a batch as large as a layer is wide, shapes do not tell a value from its transpose."""
    square = by(lambda w, x: x @ w.T if w.shape != (4, 4) else w @ x.T)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(square, square, draw(1, 4), draw(2, 4), X)


@pytest.mark.parametrize(("depth", "width"), [(2, 6), (4, 6), (3, 12)])
def test_multilayer_perceptrons_of_equinox(depth, width):
    def model(depth, width):
        parts = eqx.nn.MLP(3, 2, width, depth, key=jax.random.key(depth), dtype=jnp.float64)
        params, rest = eqx.partition(parts, eqx.is_inexact_array)
        params = jax.tree.map(lambda v: v + 0.3, params)
        return (lambda p, x: jax.vmap(eqx.combine(p, rest))(x)), params

    (fn, small), (wide, big) = model(1, 6), model(depth, width)
    grown = growth.plan(fn, wide, small, big, X).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(wide(grown, X), fn(small, X), rtol=0, atol=1e-13)


class ActorAndCritics(nn.Module):
    """As in SAC and TD3: one network, and an ensemble of others."""

    hidden: int
    width: int = 6

    @nn.compact
    def __call__(self, x):
        critics = nn.vmap(
            Member, variable_axes={"params": 0}, split_rngs={"params": True},
            in_axes=None, axis_size=2,
        )  # fmt: skip
        sizes = self.hidden, self.width
        return Member(*sizes, name="actor")(x), critics(*sizes, name="critics")(x)


class Member(nn.Module):
    hidden: int
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.hidden):
            x = nn.relu(DENSE(self.width, bias_init=nn.initializers.normal())(x))
        return DENSE(2)(x)


@pytest.mark.parametrize("width", [6, 9])
def test_a_network_beside_an_ensemble(width):
    before, after = ActorAndCritics(2), ActorAndCritics(3, width)
    small = before.init(jax.random.key(0), X)
    big = jax.eval_shape(after.init, jax.random.key(0), X)
    grown = growth.plan(before.apply, after.apply, small, big, X).grow(small, key=jax.random.key(0))
    for found, wanted in zip(after.apply(grown, X), before.apply(small, X), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)
