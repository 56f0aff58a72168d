"""Streams that are normalised after every layer: what has length 1 is normalised to itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(3, 5))


def by_norm(h, axis):
    return h / jnp.linalg.norm(h, axis=axis, keepdims=True)


def by_root(h, axis):
    return h / jnp.sqrt(jnp.sum(h**2, axis=axis, keepdims=True))


def by_inverse(h, axis):
    return jax.lax.rsqrt(jnp.sum(jnp.square(h), axis, keepdims=True)) * h


def by_new_axis(h, axis):
    return h / jnp.expand_dims(jnp.sqrt((h * h).sum(axis)), axis)


def spread_out(h, axis):
    return h / jnp.broadcast_to(jnp.linalg.norm(h, axis=axis, keepdims=True), h.shape)


def with_epsilon(h, axis):
    return h / jnp.sqrt(jnp.sum(h * h, axis=axis, keepdims=True) + 1e-6)


def at_least(h, axis):
    return h / jnp.maximum(jnp.linalg.norm(h, axis=axis, keepdims=True), 1e-6)


def by_mean(h, axis):
    return h / jnp.sqrt(jnp.mean(h * h, axis=axis, keepdims=True))


def by_sum(h, axis):
    return h / jnp.sum(h, axis=axis, keepdims=True)


def by_cube(h, axis):
    return h / jnp.cbrt(jnp.sum(h * h, axis=axis, keepdims=True))


NORMS = [by_norm, by_root, by_inverse, by_new_axis, spread_out]
OTHERS = [with_epsilon, at_least, by_mean, by_sum, by_cube]


def model(norm, axis=-1, last=None):
    """As nGPT and SimbaV2 do it: a step towards the layer's result, back on the sphere."""

    def fn(p, x):
        h = norm((x @ p["enter"]).reshape(3, 2, -1), axis)
        for w in p["layers"]:
            y = jax.nn.silu(h @ w["up"]) @ w["down"]
            h = norm(h + w["rate"] * (norm(y, axis) - h), axis if last is None else last)
        return h @ p["out"]

    return fn


def draw(depth, width=4, hidden=6):
    rng = np.random.default_rng(depth)
    layers = [
        {name: rng.normal(size=shape) for name, shape in
         {"up": (width, hidden), "down": (hidden, width), "rate": (width,)}.items()}
        for _ in range(depth)
    ]  # fmt: skip
    return {"enter": rng.normal(size=(5, 2 * width)), "layers": layers,
            "out": rng.normal(size=(width, 2))}  # fmt: skip


@pytest.mark.parametrize("axis", [-1, 0, (0, 2)])
@pytest.mark.parametrize("norm", NORMS)
def test_layers_on_a_sphere(norm, axis):
    if axis == (0, 2) and norm is by_norm:
        norm = by_root  # a norm along two axes is that of matrices
    fn, small, big = model(norm, axis), draw(2), draw(3)
    plan = growth.plan(fn, fn, small, big, X)
    grown = plan.grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=1e-12)
    assert any(path.endswith("rate") for path in plan.zeroed)


@pytest.mark.parametrize("norm", OTHERS)
def test_other_norms_change_what_is_normalised(norm):
    fn = model(norm)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, draw(2), draw(3), X)


def test_norms_along_other_axes():
    fn = model(by_norm, axis=-1, last=0)
    small = draw(2)
    # The first value has length 1 along the last axis; what a layer returns, along the first.
    plan = growth.plan(fn, fn, small, draw(3), X)
    grown = plan.grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=1e-12)
    assert not any(leaf.new for leaf in plan.leaves if leaf.path.startswith("layers/0"))
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, draw(0), draw(1), X)
