"""New convolutions whose inputs are padded beforehand, as in periodic domains and ported models."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
X = np.random.default_rng(0).normal(size=(2, 7, 6, 3))
MODES = ["constant", "wrap", "edge", "reflect", "symmetric"]


def padded_net(p, x, pad, apart=1):
    """Convolutions of padded images between ReLUs."""
    dims = ("NHWC", "HWIO", "NHWC")
    conv = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="VALID",
        dimension_numbers=dims, rhs_dilation=(apart, 1),
    )  # fmt: skip
    h = jax.nn.relu(x @ p["in"])
    for layer in p["layers"]:
        h = jax.nn.relu(conv(pad(h), layer["kernel"]) + layer["bias"])
    return h @ p["out"]


def by(mode, height=1, width=1):
    return lambda h: jnp.pad(h, ((0, 0), (height, height), (width, width), (0, 0)), mode=mode)


def one_way_each(h):
    """Around the sphere: the longitude is periodic, the latitude is not."""
    h = jnp.concatenate([h[:, :, -1:], h, h[:, :, :1]], 2)
    return jnp.pad(h, ((0, 0), (1, 1), (0, 0), (0, 0)))


def draw(depth, width, size=(3, 3)):
    rng = np.random.default_rng(1)
    one = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-1]))
    layers = [
        {"kernel": one(*size, width, width), "bias": one(width)} for _ in range(depth)
    ]  # fmt: skip
    return {"in": one(3, width), "layers": layers, "out": one(width, 2)}


# How values are padded, the size of kernels, and their dilation along the height.
EXACT = {mode: (by(mode), (3, 3), 1) for mode in MODES} | {
    "one way each": (one_way_each, (3, 3), 1),
    "large kernels": (by("reflect", 2, 1), (5, 3), 1),
    "dilated": (by("wrap", 2, 0), (3, 1), 2),
    "along one axis": (by("constant", 0, 1), (1, 3), 1),
}


@pytest.mark.parametrize(("depth", "width"), [(1, 4), (1, 6), (2, 4), (2, 8)])
@pytest.mark.parametrize("name", EXACT)
def test_what_was_padded_goes_on(name, depth, width):
    """New layers behind an old one, and in front of one, which pads the same value again."""
    pad, size, apart = EXACT[name]
    fn = functools.partial(padded_net, pad=pad, apart=apart)
    small, big = draw(depth, 4, size), draw(depth + 2, width, size)
    grown = growth.plan(fn, fn, small, big, X).grow(small, key=jax.random.key(0))
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
    np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "pad",
    [
        pytest.param(lambda h: jnp.pad(h, ((0, 0), (2, 0), (1, 1), (0, 0))), id="causal"),
        pytest.param(lambda h: jnp.pad(h, ((0, 0), (0, 0), (1, 1), (0, 0))), id="too little"),
        pytest.param(lambda h: jnp.roll(by("wrap")(h), 1, 1), id="moved"),
    ],
)
def test_another_place_does_not_pass(pad):
    """The middle of the kernel meets another value, or none: there is no identity kernel there."""
    fn = functools.partial(padded_net, pad=pad)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, draw(1, 4), draw(2, 4), X)


def test_a_part_of_what_was_padded():
    """The way up of a U-Net: a padded concatenation, of which one part goes on."""

    def fn(p, x):
        h = jax.nn.relu(x @ p["in"])
        skip = jnp.cos(h) + 1.0
        for layer in p["layers"]:
            both = by("reflect")(jnp.concatenate([h, skip], -1))
            dims = ("NHWC", "HWIO", "NHWC")
            h = jax.lax.conv_general_dilated(
                both, layer["kernel"], (1, 1), "VALID", dimension_numbers=dims
            )
            h = jax.nn.relu(h + layer["bias"])
        return h @ p["out"]

    rng = np.random.default_rng(1)
    one = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[-1]))
    layer = lambda n: {"kernel": one(3, 3, 2 * n, n), "bias": one(n)}
    net = lambda depth, n: {
        "in": one(3, n), "layers": [layer(n) for _ in range(depth)], "out": one(n, 2)
    }  # fmt: skip
    for width in (4, 8):
        small, big = net(1, 4), net(3, width)
        grown = growth.plan(fn, fn, small, big, X).grow(small, key=jax.random.key(0))
        np.testing.assert_allclose(fn(grown, X), fn(small, X), rtol=0, atol=1e-13)
