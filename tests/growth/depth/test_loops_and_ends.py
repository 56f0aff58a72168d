"""New layers in loops that carry two values, and behind the last of the old ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth import checking
from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(1).normal(size=(5, 4))


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 0.5)


def stacked(layers, width=4):
    return {
        "in": draw(9, 4, width),
        "layers": {
            "up": draw(0, layers, width, 6),
            "down": draw(1, layers, 6, width),
            "note": draw(2, layers, width, 3),
        },
        "out": draw(8, width, 2),
    }


def scanned(body):
    def fn(p, x):
        x = x @ p["in"]
        (x, notes), _ = lax.scan(
            lambda carry, layer: (body(carry, layer), None), (x, jnp.zeros((5, 3))), p["layers"]
        )
        return x @ p["out"], notes

    return fn


def both_add(carry, p):
    """The stream, and what every layer notes beside it."""
    x, notes = carry
    h = jnp.tanh(x @ p["up"])
    return x + h @ p["down"], notes + jnp.tanh(x) @ p["note"]


def second_adds_what_is_new(carry, p):
    x, notes = carry
    h = jnp.tanh(x @ p["up"]) @ p["down"]
    return x + h, notes + h @ p["note"]


@pytest.mark.parametrize("body", [both_add, second_adds_what_is_new], ids=lambda f: f.__name__)
@pytest.mark.parametrize("width", [4, 8])
def test_both_carries_pass_a_new_layer(body, width):
    fn, small, big = scanned(body), stacked(2), stacked(4, width)
    plan = growth.plan(fn, fn, small, big, X)
    grown = plan.grow(small, key=jax.random.key(0))
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
    for found, wanted in zip(jax.jit(fn)(grown, X), jax.jit(fn)(small, X), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)


def swapped(carry, p):
    x, y = carry
    h = jnp.tanh(x @ p["up"]) @ p["down"]
    return y + h, x


def counted(carry, p):
    x, notes = carry
    return x + jnp.tanh(x @ p["up"]) @ p["down"], notes + 1.0


def twice(p, x):
    (x, y), _ = lax.scan(
        lambda carry, layer: (swapped(carry, layer), None), (x @ p["in"], x @ p["in"]), p["layers"]
    )
    return x @ p["out"], y


@pytest.mark.parametrize(
    ("fn", "layers"), [(twice, 3), (scanned(counted), 4)], ids=["swapped", "counted"]
)
def test_a_carry_that_no_parameter_holds_still(fn, layers):
    """Zeros keep the first carry; the second changes with every turn of the loop."""
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, stacked(2), stacked(layers), X)


def test_two_layers_that_swap_the_carries_swap_them_back():
    fn, small, big = twice, stacked(2), stacked(4, 8)
    grown = growth.plan(fn, fn, small, big, X).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, X)[0], fn(small, X)[0], rtol=0, atol=1e-13)


def test_a_new_last_layer():
    """A name behind all old ones: old layers stay in their order, and the new one does nothing."""
    it = checking.small("blocks without a head", "float64")
    grown = it.plan("deeper, identity").grow(it.params, key=jax.random.key(0))
    (new,) = [name for name in grown if (grown[name]["down"] == 0).all()]
    old = [name for name in sorted(grown) if name != new]
    for name, source in zip(old, sorted(it.params), strict=True):
        np.testing.assert_array_equal(grown[name]["down"], it.params[source]["down"])
    np.testing.assert_array_equal(it.fn(grown, *it.inputs), it.fn(it.params, *it.inputs))


@pytest.mark.parametrize("how", ["identity", "last"])
def test_a_last_layer_without_a_head(how):
    """All layers are alike, and nothing comes after them."""
    it = checking.small("layers without a head", "float64")
    grown = it.plan(f"deeper, {how}").grow(it.params, key=jax.random.key(0))
    if how == "identity":
        wanted = it.fn(it.params, *it.inputs)
        np.testing.assert_allclose(it.fn(grown, *it.inputs), wanted, atol=1e-15)
    else:
        for i, old in enumerate([0, 1, 1]):
            np.testing.assert_array_equal(grown["layers"][i]["w"], it.params["layers"][old]["w"])


def plain_layers(activation, first=None):
    """A loop over layers without a residual stream."""

    def fn(p, x):
        layer = lambda h, q: (activation(h @ q["w"] + q["b"]), None)
        return lax.scan(layer, (first or activation)(x @ p["in"]), p["layers"])[0] @ p["out"]

    return fn


def plain_sizes(layers, width=4):
    stack = {"w": draw(0, layers, width, width), "b": draw(1, layers, width)}
    return {"in": draw(9, 4, width), "layers": stack, "out": draw(8, width, 2)}


@pytest.mark.parametrize("width", [4, 6, 8])
@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.relu6], ids=["relu", "relu6"])
def test_layers_between_clips_in_a_loop(activation, width):
    """Every carry was clipped before: a second time changes nothing."""
    fn, small, big = plain_layers(activation), plain_sizes(2), plain_sizes(5, width)
    grown = growth.plan(fn, fn, small, big, 3 * X).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, 3 * X), fn(small, 3 * X), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("activation", "first"),
    [
        (jax.nn.relu, jnp.tanh),
        (jax.nn.relu6, jax.nn.relu),
        (lambda h: jax.nn.relu(h) - 1.0, jax.nn.relu),
        (jnp.tanh, jnp.tanh),
    ],
    ids=["not clipped at first", "clipped less at first", "not clipped later", "no clip"],
)
def test_layers_in_a_loop_that_would_be_clipped_anew(activation, first):
    fn = plain_layers(activation, first)
    with pytest.raises(growth.GrowthError, match="the carry still changes"):
        growth.plan(fn, fn, plain_sizes(2), plain_sizes(4), X)
