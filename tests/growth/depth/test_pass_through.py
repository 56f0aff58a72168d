"""New layers that pass one of several values on.

A part of a concatenation, a product with 1, one of several matrices, or some of the frequencies.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth.zoo.building import randomised
from trainkit import growth

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4))
GRAPH = (RNG.random((5, 5)) < 0.5) + np.eye(5)
IMAGES, TIMES = RNG.normal(size=(2, 8, 8, 3)), RNG.normal(size=(2, 5))
DOUBLE = {"dtype": jnp.float64, "param_dtype": jnp.float64}


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


def concatenated(act, own_first=True, residual=False):
    """GraphSAGE: one matrix for a node and the mean of its neighbours."""

    def fn(p, x):
        h = x @ p["in"]
        for layer in p["layers"]:
            both = [h, (GRAPH @ h) / GRAPH.sum(1, keepdims=True)]
            y = act(jnp.concatenate(both if own_first else both[::-1], -1) @ layer["w"])
            y = act(y + layer["b"])
            h = h + y if residual else y
        return h @ p["out"]

    return fn


def scaled(act=lambda y: y, matrix=False):
    """FiLM without 1 +: a context scales and shifts every unit."""

    def fn(p, x):
        h, context = x @ p["in"], jnp.tanh(x @ p["context"])
        for layer in p["layers"]:
            h = h @ layer["w"] + layer["b"] if matrix else h
            scale, shift = context @ layer["g"] + layer["gb"], context @ layer["s"] + layer["sb"]
            h = act(h * scale + shift)
        return h @ p["out"]

    return fn


def summed(act, own_first):
    """GraphSAGE with two matrices: act(h · own + mean of neighbours · near + b)."""

    def fn(p, x):
        h = x @ p["in"]
        for layer in p["layers"]:
            own = h @ layer["own"]
            near = (GRAPH @ h) / GRAPH.sum(1, keepdims=True) @ layer["near"]
            h = act((own + near if own_first else near + own) + layer["b"])
        return h @ p["out"]

    return fn


def modulated(p, x):
    """FiLM with 1 +, and one matrix for both."""
    h, context = x @ p["in"], jnp.tanh(x @ p["context"])
    for layer in p["layers"]:
        scale, shift = jnp.split(context @ layer["film"] + layer["bf"], 2, -1)
        h = jax.nn.relu((h @ layer["w"] + layer["b"]) * (1 + scale) + shift)
    return h @ p["out"]


def fourier(p, x):
    """A residual Fourier layer: three modes are mixed, the others are 0."""
    h = (x[..., None] * p["in"][0]).reshape(5, 4, -1)
    for layer in p["layers"]:
        modes = jnp.fft.rfft(h, axis=1)
        weights = jax.lax.complex(layer["re"], layer["im"])
        mixed = jnp.einsum("bmi,mio->bmo", modes[:, :3], weights)
        mixed = jnp.zeros_like(modes).at[:, :3].set(mixed)
        h = h + jax.nn.gelu(jnp.fft.irfft(mixed, 4, axis=1) + h @ layer["w"] + layer["b"])
    return h[:, 0] @ p["out"]


def draw(depth, layer, **outside):
    f = lambda shape: jnp.asarray(RNG.normal(0.4, 1.0, size=shape))  # few units are dead
    named = lambda shapes: {name: f(shape) for name, shape in shapes.items()}
    return {**named(outside), "layers": [named(layer) for _ in range(depth)]}


def graph(depth, n=4):
    return draw(depth, {"w": (2 * n, n), "b": (n,)}, **{"in": (4, n), "out": (n, 2)})


def two_matrices(depth, n=4):
    layer = {"own": (n, n), "near": (n, n), "b": (n,)}
    return draw(depth, layer, **{"in": (4, n), "out": (n, 2)})


def film(depth, n=4):
    layer = {"film": (6, 2 * n), "bf": (2 * n,), "w": (n, n), "b": (n,)}
    return draw(depth, layer, **{"in": (4, n), "context": (4, 6), "out": (n, 2)})


def spectral(depth, n=4):
    layer = {"re": (3, n, n), "im": (3, n, n), "w": (n, n), "b": (n,)}
    return draw(depth, layer, **{"in": (1, n), "out": (n, 2)})


def context(matrix):
    def of(depth, n=4):
        layer = {"g": (6, n), "gb": (n,), "s": (6, n), "sb": (n,)}
        layer |= {"w": (n, n), "b": (n,)} if matrix else {}
        return draw(depth, layer, **{"in": (4, n), "context": (4, 6), "out": (n, 2)})

    return of


CASES = {
    "own first": (concatenated(jax.nn.relu), graph),
    "neighbours first": (concatenated(jax.nn.relu, own_first=False), graph),
    "residual": (concatenated(jnp.tanh, residual=True), graph),
    "film": (scaled(), context(False)),
    "film behind matrices": (scaled(jax.nn.relu, matrix=True), context(True)),
    "own matrix first": (summed(jax.nn.relu, True), two_matrices),
    "matrix of the neighbours first": (summed(jax.nn.relu, False), two_matrices),
    "film around 1": (modulated, film),
    "fourier": (fourier, spectral),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("after", "width"), [(3, 4), (4, 8), (3, 6)])
def test_depth(name, after, width):
    fn, shapes = CASES[name]
    small = shapes(2)
    plan = growth.plan(fn, fn, small, shapes(after, width), X)
    assert plan.proof == "reduced"
    assert growth.Plan.from_json(plan.to_json()) == plan
    for how in ("even", "uneven", "noise", "zero_out"):
        old, new = fn(small, X), fn(plan.grow(small, key=0, how=how), X)
        assert jnp.abs(new - old).max() < 1e-12 * jnp.abs(old).max() > 0


def test_what_the_new_layers_hold():
    """Rows of the part that passes are an identity, and those of the other part are 0."""
    for name, start in (("own first", 0), ("neighbours first", 4)):
        fn, shapes = CASES[name]
        plan = growth.plan(fn, fn, shapes(2), shapes(3), X)
        wanted = np.zeros((8, 4))
        wanted[start : start + 4] = np.eye(4)
        np.testing.assert_array_equal(plan.grow(shapes(2), key=0)["layers"][1]["w"], wanted)
    fn, shapes = CASES["film"]
    plan, like = growth.plan(fn, fn, shapes(2), shapes(3), X), shapes(3)
    # Values of `like=` do not replace the 1 that the identity needs.
    new = next(leaf.path for leaf in plan.leaves if leaf.new and leaf.path.endswith("gb"))
    grown = plan.grow(shapes(2), key=0, like=like)["layers"][int(new.split("/")[1])]
    assert (grown["gb"] == 1).all()
    assert not grown["g"].any()
    assert "so that the new layer changes nothing" in plan.explain(new)


@pytest.mark.parametrize("tx", [optax.adam(1e-2), optax.adafactor(1e-2), optax.contrib.muon(1e-2)])
def test_moments(tx):
    fn, shapes = CASES["own first"]
    small, big = shapes(2), shapes(3, 6)
    growth_map = growth.plan(fn, fn, small, big, X).realise(0)
    grown = growth_map.params(small)
    state = growth_map.opt_state(tx, tx.init(small), small, grown)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(grown))


def stacked(p, x):
    def layer(h, row):
        return jnp.concatenate([h, GRAPH @ h], -1) @ row["w"] * row["g"], None

    return jnp.tanh(jax.lax.scan(layer, x @ p["in"], p["layers"])[0]) @ p["out"]


@pytest.mark.parametrize(("after", "width"), [(3, 4), (5, 8)])
def test_loops(after, width):
    def of(depth, n=4):
        layers = {"w": (depth, 2 * n, n), "g": (depth, n)}
        f = lambda shape: jnp.asarray(RNG.normal(0.4, 1.0, size=shape))
        return {"in": f((4, n)), "out": f((n, 2)), "layers": {k: f(s) for k, s in layers.items()}}

    small = of(2)
    plan = growth.plan(stacked, stacked, small, of(after, width), X)
    old, new = stacked(small, X), stacked(plan.grow(small, key=0), X)
    assert jnp.abs(new - old).max() < 1e-12 * jnp.abs(old).max() > 0


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [(concatenated(jnp.tanh), graph), (summed(jnp.tanh, True), two_matrices),
     (summed(jnp.tanh, False), two_matrices)],
    ids=["one matrix", "own matrix first", "matrix of the neighbours first"],
)  # fmt: skip
def test_layers_between_other_functions_are_refused(fn, shapes):
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, shapes(2), shapes(3), X)


class ResidualBlock(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, time):
        h = nn.Conv(self.width, (3, 3), **DOUBLE)(nn.silu(nn.GroupNorm(2, **DOUBLE)(x)))
        h = h + nn.Dense(self.width, **DOUBLE)(time)[:, None, None]
        h = nn.Conv(self.width, (3, 3), **DOUBLE)(nn.silu(nn.GroupNorm(2, **DOUBLE)(h)))
        if x.shape[-1] != self.width:
            x = nn.Conv(self.width, (1, 1), **DOUBLE)(x)
        return x + h


class SkippingNet(nn.Module):
    """A diffusion U-Net; `more`: one more block on the way up, and skips of every down-sampling."""

    width: int = 4
    blocks: int = 1
    stream_first: bool = True
    more: int = 0

    @nn.compact
    def __call__(self, x, time):
        conv = lambda width, *args: nn.Conv(width, (3, 3), *args, **DOUBLE)
        time = nn.silu(nn.Dense(2 * self.width, **DOUBLE)(time))
        h = conv(self.width)(x)
        skips = [h] * self.more
        for level in (1, 2):
            for i in range(self.blocks):
                h = ResidualBlock(level * self.width, name=f"down_{level}_{i}")(h, time)
                skips.append(h)
            if level == 1:
                h = conv(self.width, (2, 2))(h)
                skips += [h] * self.more
        h = ResidualBlock(2 * self.width, name="middle")(h, time)
        for level in (2, 1):
            for i in range(self.blocks + self.more):
                h = jnp.concatenate([h, skips.pop()][:: 1 if self.stream_first else -1], -1)
                h = ResidualBlock(level * self.width, name=f"up_{level}_{i}")(h, time)
            if level == 2:
                h = jnp.repeat(jnp.repeat(h, 2, 1), 2, 2)
        return conv(3)(nn.silu(nn.GroupNorm(2, **DOUBLE)(h)))


@pytest.mark.parametrize("sizes", [{"blocks": 2}, {"blocks": 2, "width": 8}], ids=str)
@pytest.mark.parametrize("stream_first", [True, False])
@pytest.mark.parametrize("more", [0, 1])
def test_blocks_with_skip_connections(sizes, stream_first, more):
    """The matrix of a new block on the way up takes the stream, and not the skip connection."""
    nets = [SkippingNet(stream_first=stream_first, more=more, **s) for s in ({}, sizes)]
    fns = [lambda p, x, t, net=net: net.apply({"params": p}, x, t) for net in nets]
    shapes = [jax.eval_shape(net.init, jax.random.key(0), IMAGES, TIMES)["params"] for net in nets]
    small = randomised(shapes[0])
    plan = growth.plan(*fns, small, shapes[1], IMAGES, TIMES)
    assert plan.proof == "reduced"
    old, new = fns[0](small, IMAGES, TIMES), fns[1](plan.grow(small, key=0), IMAGES, TIMES)
    assert jnp.abs(new - old).max() < 1e-12 * jnp.abs(old).max() > 0
