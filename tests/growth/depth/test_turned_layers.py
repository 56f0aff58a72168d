"""Layers between ReLUs whose matrix is in front or masked, or whose channels are not last."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth.checking import exact
from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
relu = jax.nn.relu


def draw(shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def net(layer):
    def fn(p, x):
        x = layer.enter(p["enter"], x)
        for w in p["layers"]:
            x = relu(layer.apply(w, x))
        return layer.leave(p["out"], x)

    return fn


class Layer:
    """A kind of layer: how it is applied, and its shapes at a width."""

    def __init__(self, x, apply, kernel, axis):
        self.x, self.apply, self.kernel, self.axis = x, apply, kernel, axis

    def enter(self, w, x):
        return jnp.moveaxis(jnp.tensordot(x, w, (self.axis, 0)), -1, self.axis)

    def leave(self, w, x):
        return jnp.tensordot(x, w, (self.axis, 0))

    def params(self, depth, width):
        shapes = {"w": self.kernel(width), "b": (width,)}
        layers = [{n: draw(s, i) for n, s in shapes.items()} for i in range(depth)]
        channels = self.x.shape[self.axis]
        return {"enter": draw((channels, width)), "layers": layers, "out": draw((width, 2))}


def of(apply, x_shape, kernel, axis):
    x = draw(x_shape)
    spread = [-1 if d == axis % x.ndim else 1 for d in range(x.ndim)]
    full = lambda w, x: apply(w["w"], x) + w["b"].reshape(spread)
    return Layer(x, full, kernel, axis % x.ndim)


def conv(spec, **options):
    options = {"window_strides": (1,) * (len(spec[0]) - 2), "padding": "SAME"} | options
    return lambda w, x: lax.conv_general_dilated(x, w, dimension_numbers=spec, **options)


SQUARE = lambda n: (n, n)
LAYERS = {
    "w @ x": of(lambda w, x: w @ x, (3, 7), SQUARE, 0),
    "w.T @ x": of(lambda w, x: w.T @ x, (3, 7), SQUARE, 0),
    "batched w @ x": of(lambda w, x: jax.vmap(lambda x: w @ x)(x), (5, 3, 7), SQUARE, 1),
    "einsum, channels in the middle": of(
        lambda w, x: jnp.einsum("oi,bit->bot", w, x), (5, 3, 7), SQUARE, 1
    ),
    "einsum, channels first": of(
        lambda w, x: jnp.einsum("io,ibt->obt", w, x), (3, 5, 7), SQUARE, 0
    ),
    "tensordot and back": of(
        lambda w, x: jnp.moveaxis(jnp.tensordot(x, w, (0, 0)), -1, 0), (3, 5, 7), SQUARE, 0
    ),
    "an axis added and removed": of(lambda w, x: (x[None] @ w)[0], (7, 3), SQUARE, -1),
    "NCH": of(conv(("NCH", "OIH", "NCH")), (5, 3, 7), lambda n: (n, n, 3), 1),
    "NCHW": of(conv(("NCHW", "OIHW", "NCHW")), (2, 3, 6, 7), lambda n: (n, n, 3, 5), 1),
    "NCHW, kernel last": of(
        conv(("NCHW", "HWIO", "NCHW")), (2, 3, 6, 7), lambda n: (3, 3, n, n), 1
    ),
    "NCHW, inputs first": of(
        conv(("NCHW", "IOHW", "NCHW")), (2, 3, 6, 7), lambda n: (n, n, 3, 3), 1
    ),
    "one image": of(
        lambda w, x: conv(("NCH", "OIH", "NCH"))(w, x[None])[0], (3, 7), lambda n: (n, n, 3), 0
    ),
    "dilated": of(
        conv(("NCH", "OIH", "NCH"), rhs_dilation=(2,)), (5, 3, 9), lambda n: (n, n, 3), 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("width", [3, 4, 6])
@pytest.mark.parametrize("kind", LAYERS)
def test_new_layers(kind, width):
    """Alone, and with other widths at once."""
    layer = LAYERS[kind]
    plan, _ = exact(net(layer), layer.params(2, 3), layer.params(3, width), layer.x)
    (new,) = [leaf for leaf in plan.leaves if leaf.new and leaf.path.endswith("w")]
    assert new.layer.becomes in ("eye", "eye_first")


MASKS = {
    "where": lambda mask, w: jnp.where(mask, w, 0.0),
    "product": lambda mask, w: mask.astype(w.dtype) * w,
    "product, the other way": lambda mask, w: w * jnp.asarray(mask, w.dtype),
}


@pytest.mark.parametrize("masked", MASKS.values(), ids=MASKS)
def test_masked_layers(masked):
    """As in a masked autoregressive net: what is 0 in the matrix is 0 in an identity."""
    rank = np.arange(6) % 3
    mask = rank[:, None] >= rank
    layer = of(lambda w, x: x @ masked(mask, w).T, (5, 4), SQUARE, -1)
    exact(net(layer), layer.params(1, 6), layer.params(2, 6), layer.x)
    # Where a diagonal is 0, no identity matrix comes through.
    strict = rank[:, None] > rank
    layer = of(lambda w, x: x @ masked(strict, w).T, (5, 4), SQUARE, -1)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(net(layer), net(layer), layer.params(1, 6), layer.params(2, 6), layer.x)


@pytest.mark.parametrize("masked", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("width", [6, 12])
def test_masked_layers_of_nets_in_a_loop(masked, width):
    """As in a masked autoregressive flow: masks are applied to the matrices of all nets at once."""

    def fn(p, x, strict=False):
        rank = np.arange(p["in"].shape[-1]) % 3
        mask = rank[:, None] > rank if strict else rank[:, None] >= rank
        mask = np.tile(mask, (len(p["in"]), 1, 1))
        nets = p | {"layers": [q | {"w": masked(mask, q["w"])} for q in p["layers"]]}

        def step(x, net):
            h = jnp.tanh(x @ net["in"])
            for q in net["layers"]:
                h = relu(h @ q["w"].T + q["b"])
            return x * jnp.exp(jnp.tanh(h @ net["out"])), None

        return jax.lax.scan(step, x, nets)[0]

    def of(depth, n=6):
        layer = lambda i: {"w": draw((2, n, n), i), "b": draw((2, n), i + 9)}
        ends = {"in": draw((2, 4, n), 7), "out": draw((2, n, 4), 8)}
        return ends | {"layers": [layer(i) for i in range(depth)]}

    x = draw((5, 4))
    exact(fn, of(1), of(3, width), x)
    refused = lambda p, x: fn(p, x, strict=True)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(refused, refused, of(1), of(2), x)


def test_factored_weights():
    """A scale of its own for every column, as in nets with weight factorisation."""
    layer = lambda i: {"g": draw((4,), i), "v": draw((4, 4), i), "b": draw((4,), i + 9)}
    of = lambda depth: {"layers": [layer(i) for i in range(depth)], "out": draw((4, 2))}
    for factored in (
        lambda w: w["g"] * w["v"],
        lambda w: w["v"] * w["g"],
        lambda w: w["v"] * jnp.exp(w["g"]),
    ):

        def fn(p, x, factored=factored):
            for w in p["layers"]:
                x = relu(x @ factored(w) + w["b"])
            return x @ p["out"]

        _, grown = exact(fn, of(2), of(3), draw((5, 4)))
        assert any(np.array_equal(w["v"], np.eye(4)) for w in grown["layers"])


class Convolutions(eqx.Module):
    layers: list

    def __init__(self, depth, channels=4):
        keys = jax.random.split(jax.random.key(depth), depth)
        sizes = [3, *[channels] * depth]
        self.layers = [
            eqx.nn.Conv2d(a, b, 3, padding=1, key=key, dtype=float)
            for a, b, key in zip(sizes, sizes[1:], keys, strict=False)
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = relu(layer(x))
        return x


def test_equinox_convolutions_under_vmap():
    x = draw((2, 3, 6, 6))
    (small, before), (big, after) = (
        eqx.partition(Convolutions(depth), eqx.is_array) for depth in (2, 4)
    )
    run = lambda static: lambda p, x: jax.vmap(eqx.combine(p, static))(x)
    plan = growth.plan(run(before), run(after), small, big, x)
    grown = plan.grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(run(after)(grown, x), run(before)(small, x), rtol=1e-12, atol=1e-12)


def test_other_strides_are_refused():
    layer = of(conv(("NCH", "OIH", "NCH"), window_strides=(2,)), (5, 3, 16), lambda n: (n, n, 3), 1)
    with pytest.raises(growth.GrowthError):
        growth.plan(net(layer), net(layer), layer.params(2, 3), layer.params(3, 3), layer.x)


@pytest.mark.parametrize("width", [4, 6, 8])
def test_a_matrix_that_a_layer_uses_twice(width):
    """There and back, each time in front of a ReLU."""

    def fn(p, x):
        h = relu(x @ p["in"])
        for layer in p["layers"]:
            h = relu(relu(h @ layer["tied"]) @ layer["tied"].T + layer["b"])
        return h @ p["out"]

    def of(depth, n):
        layer = lambda i: {"tied": draw((n, n), i), "b": draw((n,), i + 9)}
        ends = {"in": draw((3, n), 7), "out": draw((n, 2), 8)}
        return ends | {"layers": [layer(i) for i in range(depth)]}

    exact(fn, of(1, 4), of(2, width), draw((5, 3)))
