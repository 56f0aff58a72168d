"""Equations that do nothing in the small model, and are not there: `table[:length]` of all rows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth.checking import exact
from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
TOKENS = np.arange(14).reshape(2, 7) % 11
X = np.random.default_rng(0).normal(size=(2, 7, 5))


def draw(**shapes):
    rng = np.random.default_rng(len(shapes))
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def first(p, length):
    return p["places"][:length]


def first_of_three_axes(p, length):
    return p["places"][None, :, :][:, :length, :]


def first_from_a_place(p, length):
    return lax.dynamic_slice_in_dim(p["places"], 0, length, axis=0)


def last(p, length):
    return p["places"][-length:]


def middle(p, length):
    start = (len(p["places"]) - length) // 2
    return p["places"][start : start + length]


def cast(p, length):
    return p["places"].astype(jnp.float32)[:length].astype(float)


@pytest.mark.parametrize("sizes", [(7, 14), (7, 9), (9, 14)], ids=str)
@pytest.mark.parametrize(
    "part", [first, first_of_three_axes, first_from_a_place, last, middle, cast]
)
def test_more_places(part, sizes):
    """A longer context: at the old length all rows of the old table are used, or some."""
    if part is middle:
        sizes = sizes[0], sizes[0] + 2 * (sizes[1] - sizes[0])

    def fn(p, x):
        return jnp.tanh(x @ p["in"] + part(p, x.shape[1])) @ p["out"]

    of = lambda n, d: draw(**{"in": (5, d), "out": (d, 2)}, places=(n, d))
    small = of(sizes[0], 4)
    for width in (4, 6, 8):
        _, grown = exact(fn, small, of(sizes[1], width), X)
        assert len(grown["places"]) == sizes[1]
    same = exact(fn, small, of(sizes[1], 4), X)[1]["places"]
    starts = {last: sizes[1] - sizes[0], middle: (sizes[1] - sizes[0]) // 2}
    start = starts.get(part, 0)
    np.testing.assert_array_equal(same[start : start + sizes[0]], small["places"])


def with_positions(p, tokens):
    h = p["words"][tokens] + first(p, tokens.shape[1])
    for w in p["layers"]:
        h = h + jnp.tanh(h @ w["up"]) @ w["down"]
    return h @ p["out"]


def of_depth(depth, length, width, hidden=6):
    layers = [draw(up=(width, hidden), down=(hidden, width)) for _ in range(depth)]
    return draw(words=(11, width), places=(length, width), out=(width, 3)) | {"layers": layers}


@pytest.mark.parametrize("width", [4, 6, 8])
def test_with_new_layers(width):
    exact(with_positions, of_depth(2, 7, 4), of_depth(4, 14, width), TOKENS)


def test_tables_of_distances():
    """2n − 1 rows, of which those around the middle are used."""

    def fn(p, x):
        length, most = x.shape[1], (len(p["far"]) + 1) // 2
        far = p["far"][most - length : most + length - 1]
        apart = jnp.arange(length)[:, None] - jnp.arange(length) + length - 1
        scores = jnp.einsum("btd,bsd->bts", x @ p["q"], x @ p["k"]) + far[apart]
        return jax.nn.softmax(scores) @ (x @ p["v"])

    of = lambda n: draw(q=(5, 4), k=(5, 4), v=(5, 4), far=(2 * n - 1,))
    _, grown = exact(fn, of(7), of(14), X)
    np.testing.assert_array_equal(grown["far"][7:20], of(7)["far"])


def test_a_mask_and_angles_for_the_longest_sequence():
    def fn(p, x):
        length, most = x.shape[1], len(p["places"])
        h = x + p["places"][:length]
        angle = jnp.arange(most, dtype=float)[:, None] / 10
        h = h * jnp.cos(angle)[:length]
        mask = jnp.tril(jnp.ones((most, most)))[:length, :length]
        scores = jnp.einsum("btd,bsd->bts", h @ p["q"], h @ p["k"])
        return jax.nn.softmax(jnp.where(mask == 0, -1e9, scores)) @ (h @ p["v"])

    of = lambda n: draw(q=(5, 4), k=(5, 4), v=(5, 4), places=(n, 5))
    exact(fn, of(7), of(14), X)


@pytest.mark.parametrize("width", [6, 8])
def test_part_of_a_stream_that_was_all_of_it(width):
    def fn(p, x):
        h = jnp.tanh(x @ p["in"])
        return h[..., :4] @ p["some"] + h @ p["all"]

    of = lambda d: draw(**{"in": (5, d), "all": (d, 2)}, some=(4, 2))
    exact(fn, of(4), of(width), X)


class Positions(nn.Module):
    longest: int
    layers: int = 1

    @nn.compact
    def __call__(self, tokens):
        places = self.param("places", nn.initializers.normal(), (1, self.longest, 4), float)
        h = nn.Embed(11, 4, param_dtype=float)(tokens) + places[:, : tokens.shape[1]]
        for _ in range(self.layers):
            h = h + nn.Dense(4, param_dtype=float)(jnp.tanh(nn.Dense(6, param_dtype=float)(h)))
        return nn.Dense(3, param_dtype=float)(h)


@pytest.mark.parametrize("layers", [1, 2])
def test_modules(layers):
    small, big = Positions(7), Positions(12, layers)
    params = small.init(jax.random.key(0), TOKENS)
    params = jax.tree.map(lambda w: w + 0.1, params)  # biases are 0
    wide = big.init(jax.random.key(1), TOKENS)
    plan = growth.plan(small.apply, big.apply, params, wide, TOKENS)
    grown = plan.grow(params, key=jax.random.key(2))
    np.testing.assert_allclose(big.apply(grown, TOKENS), small.apply(params, TOKENS), rtol=1e-12)


def test_other_differences_are_refused():
    """A slice from another place, and one that takes less than the small model has."""

    def fn(start):
        return lambda p, x: jnp.tanh(x + p["places"][start : start + 7]) @ p["out"]

    of = lambda n: draw(places=(n, 5), out=(5, 2))
    grown = growth.plan(fn(0), fn(2), of(7), of(14), X).grow(of(7), key=jax.random.key(0))
    np.testing.assert_array_equal(grown["places"][2:9], of(7)["places"])
    fewer = lambda p, x: jnp.tanh(x[:, :6] + p["places"][:6]) @ p["out"]
    with pytest.raises(growth.GrowthError):
        growth.plan(fn(0), fewer, of(7), of(14), X)


def by_new_axis(x, times):
    """Heads that are repeated, unless once: [b, t, h, d] → [b, t, h · times, d]."""
    if times == 1:
        return x
    b, t, h, d = x.shape
    x = jnp.broadcast_to(x[:, :, :, None, :], (b, t, h, times, d))
    return x.reshape(b, t, h * times, d)


def by_repeat(x, times):
    return x if times == 1 else jnp.repeat(x, times, axis=2)


@pytest.mark.parametrize("queries", [4, 6])
@pytest.mark.parametrize("repeated", [by_new_axis, by_repeat])
def test_query_heads_that_get_groups(repeated, queries):
    """As many queries as keys in the small model, several for each in the big one."""

    def fn(p, x):
        heads = p["k"].shape[1]
        q, k, v = (jnp.einsum("btd,dhk->bthk", x, p[name]) for name in ("q", "k", "v"))
        k, v = (repeated(y, p["q"].shape[1] // heads) for y in (k, v))
        scores = jnp.einsum("bthk,bshk->bhts", q, k)
        y = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), v)
        return jnp.einsum("bthk,hkd->btd", y, p["o"])

    of = lambda n: draw(q=(5, n, 3), k=(5, 2, 3), v=(5, 2, 3), o=(n, 3, 5))
    exact(fn, of(2), of(queries), X)
