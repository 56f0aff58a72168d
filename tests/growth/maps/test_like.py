"""`like=`: the result has its container, and what copies nothing its values."""

from __future__ import annotations

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(1).normal(size=(5, 4))


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


class Net(NamedTuple):
    """Fields in another order than that of a dict's keys."""

    third: jax.Array
    second: jax.Array
    first: jax.Array


def dense(p, x):
    return jax.nn.gelu(jax.nn.gelu(x @ p["first"]) @ p["second"]) @ p["third"]


def sizes(n):
    return {"first": draw(0, 4, n), "second": draw(1, n, n), "third": draw(2, n, 4)}


CONTAINERS = {
    "a tuple with names": lambda big: Net(**big),
    "shapes alone": lambda big: Net(**jax.eval_shape(lambda: big)),
    "another order": lambda big: collections.OrderedDict(
        (name, big[name]) for name in ("third", "first", "second")
    ),
    "NumPy": lambda big: jax.tree.map(np.asarray, big),
    "shapes and arrays": lambda big: {**big, "first": jax.ShapeDtypeStruct((4, 8), np.float64)},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_container_is_that_of_like(name):
    """Each leaf is where its name says, whatever their order."""
    small, big = sizes(4), sizes(8)
    plan = growth.plan(dense, dense, small, big, X)
    key, like = jax.random.key(0), CONTAINERS[name](big)
    wanted = plan.grow(small, key=key)
    grown = plan.grow(small, key=key, like=like)
    assert jax.tree.structure(grown) == jax.tree.structure(like)
    found = grown._asdict() if isinstance(grown, Net) else grown
    for leaf, value in wanted.items():
        np.testing.assert_array_equal(found[leaf], value)
    np.testing.assert_allclose(dense(found, X), dense(small, X), atol=1e-12)


def test_names_and_shapes_of_like_are_checked():
    small, big = sizes(4), sizes(8)
    plan = growth.plan(dense, dense, small, big, X)
    for wrong in (small, {**big, "fourth": big["first"]}, {**big, "first": draw(0, 8, 4)}):
        with pytest.raises(growth.GrowthError, match="does not have the leaves and shapes"):
            plan.grow(small, key=jax.random.key(0), like=wrong)


def residual(p, x):
    for layer in p["layers"]:
        x = x + jnp.tanh(x @ layer["up"]) * layer["gain"] @ layer["down"]
    return x


def block(seed, n=4):
    return {"up": draw(seed, 4, n), "gain": draw(seed + 1, n), "down": draw(seed + 2, n, 4)}


def test_new_layers_hold_the_values_of_like_where_they_copy_none():
    small = {"layers": [block(0)]}
    like = {"layers": [block(10), block(20)]}
    plan = growth.plan(residual, residual, small, like, X)
    grown = plan.grow(small, key=jax.random.key(0), like=like)
    np.testing.assert_allclose(residual(grown, X), residual(small, X), atol=1e-14)
    (new,) = [i for i in (0, 1) if (grown["layers"][i]["down"] == 0).all()]
    made = {leaf.path: leaf.layer.becomes for leaf in plan.leaves if leaf.layer is not None}
    for name, value in grown["layers"][new].items():
        if made.get(f"layers/{new}/{name}") in ("one", "random"):
            np.testing.assert_array_equal(value, like["layers"][new][name])
    # Shapes alone have no values to give.
    shapes = jax.eval_shape(lambda: like)
    again = plan.grow(small, key=jax.random.key(0), like=shapes)
    np.testing.assert_allclose(residual(again, X), residual(small, X), atol=1e-14)
