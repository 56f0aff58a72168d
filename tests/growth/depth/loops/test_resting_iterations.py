"""New iterations that return their carry: by their constants, or together with their neighbours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth.checking import exact
from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(3)
X = RNG.normal(size=(5, 6))
PLACES = np.array([3, 0, 4, 1, 5, 2])
join = jnp.concatenate


def couple(p, half, other):
    """The other half, scaled and shifted, and the logarithm of the determinant."""
    h = jnp.tanh(half @ p["up"] + p["b"]) @ p["down"] + p["c"]
    shift, raw = jnp.split(h, 2, -1)
    return (other + shift) * (2 * jax.nn.sigmoid(raw)), jax.nn.log_sigmoid(raw) + jnp.log(2.0)


def first_half(p, x, of):
    b, d = couple(p, x[:, :3], x[:, 3:])
    return join([x[:, :3], b], -1), d.sum(-1)


def reversing(p, x, of):
    y, d = first_half(p, x, of)
    return y[:, ::-1], d


def branching(p, x, of):
    """Two ways to split, of which the number of a branch tells one; they are undone by the same."""
    take = lambda places: lambda x: tuple(jnp.split(x[:, places], 2, -1))
    put = lambda places: lambda a, b: join([a, b], -1)[:, np.argsort(places)]
    ways = [np.arange(6), PLACES]
    a, b = lax.switch(of, list(map(take, ways)), x)
    b, d = couple(p, a, b)
    return lax.switch(of, list(map(put, ways)), a, b), d.sum(-1)


def turning(p, x, of):
    """As patches and channels: halves of the former are taken as many narrow ones."""
    halves = x.reshape(5, 2, 3)
    cut = lambda a: a.reshape(5, 3, 1)
    b, d = couple(p, cut(halves[:, :1])[..., 0], cut(halves[:, 1:])[..., 0])
    whole = [halves[:, :1], b[..., None].reshape(5, 1, 3)]
    return join(whole, 1).reshape(5, 6), d.sum(-1)


def held_by_a_mask(p, x, of):
    half = (x * of)[:, :3] + (x * of)[:, 3:]
    h = jnp.tanh(half @ p["up"] + p["b"]) @ p["down"] + p["c"]
    shift, scale = (join([half, half], -1) for half in jnp.split(h, 2, -1))
    scale = jnp.tanh(scale) * (1 - of)
    return x * of + (1 - of) * (x * jnp.exp(scale) + shift), scale.sum(-1)


def mixing(p, x, of):
    """The channels are mixed by a matrix, and back by the same."""
    y, d = first_half(p, x @ p["mix"], of)
    return y @ p["mix"].T, d


def permuting(p, x, of):
    y, d = first_half(p, x, of)
    return y[:, of], d


def pairs_of(permutation):
    both = np.stack([permutation, np.argsort(permutation)])
    return lambda n: np.tile(both, ((n + 1) // 2, 1))[:n]


CONSTANTS = {
    branching: lambda n: np.array([0, 1, 1] * n)[:n],
    held_by_a_mask: lambda n: np.array([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]] * n, float)[:n],
    permuting: pairs_of(PLACES),
}


def flow(layer, constants=None, *, stacked=False, backwards=False):
    """A loop over layers; what every layer adds to the second result is carried, or stacked."""

    def fn(params, x):
        count = params["layers"]["up"].shape[0]
        of = (constants or CONSTANTS.get(layer, np.zeros))(count)

        def step(carry, row):
            y, d = layer(row[0], carry[0], row[1])
            return (y, carry[1] + (0 if stacked else d)), d if stacked else None

        start = jnp.asarray(x), jnp.zeros(5)
        rows = params["layers"], jnp.asarray(of)
        (y, total), each = lax.scan(step, start, rows, reverse=backwards)
        return join([y, (each.sum(0) if stacked else total)[:, None]], -1)

    return fn


def sizes(layer, count, width=5):
    shapes = {"up": (3, width), "b": (width,), "down": (width, 6), "c": (6,)}
    shapes |= {"mix": (6, 6)} if layer is mixing else {}
    return {"layers": {name: RNG.normal(size=(count, *s)) for name, s in shapes.items()}}


@pytest.mark.parametrize("width", [5, 8])
@pytest.mark.parametrize("stacked", [False, True], ids=["carried", "stacked"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(
    ("layer", "before", "after"),
    [
        (first_half, 2, 3), (turning, 2, 3), (reversing, 1, 3), (reversing, 2, 4),
        (branching, 2, 5), (branching, 1, 2), (held_by_a_mask, 2, 3), (mixing, 2, 3),
        (permuting, 2, 4),
    ],
    ids=lambda it: getattr(it, "__name__", it),
)  # fmt: skip
def test_more_coupling_layers_in_a_loop(layer, before, after, width, stacked, backwards):
    fn = flow(layer, stacked=stacked, backwards=backwards)
    plan, _ = exact(fn, sizes(layer, before), sizes(layer, after, width), X)
    assert plan.proof == "reduced"
    assert "layers/down" in plan.zeroed


@pytest.mark.parametrize(
    ("layer", "after", "constants"),
    [
        pytest.param(reversing, 3, None, id="one that reverses"),
        pytest.param(permuting, 3, None, id="half of a pair"),
        pytest.param(permuting, 4, lambda n: np.tile(PLACES, (n, 1)), id="no inverse"),
        pytest.param(held_by_a_mask, 3, lambda n: np.full((n, 6), 0.5), id="a mask of halves"),
        pytest.param(branching, 3, lambda n: np.eye(n, dtype=int)[n % 2], id="old ones differ"),
    ],
)
def test_what_new_layers_would_change_is_refused(layer, after, constants):
    fn = flow(layer, constants)
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, sizes(layer, 2), sizes(layer, after), X)


def gathering(result, together):
    """Layers that add to a stream, and what is made of one of their values each."""

    def fn(p, x):
        def step(x, q):
            h = jnp.tanh(x @ q["up"]) @ q["down"]
            return x + h, result(x, h)

        return together(lax.scan(step, x, p["layers"])[1])

    return fn


SUMS = {
    "of squares": lambda each: jnp.square(each).sum(0),
    "of places first": lambda each: (3 * each).sum(-1).sum(0),
    "of all": lambda each: jnp.sum(each),
}


def residual(count, width=7):
    f = lambda *shape: RNG.normal(size=shape)
    return {"layers": {"up": f(count, 6, width), "down": f(count, width, 6)}}


@pytest.mark.parametrize("width", [7, 9])
@pytest.mark.parametrize("total", SUMS.values(), ids=SUMS)
def test_a_sum_over_layers_of_what_new_ones_leave_at_0(total, width):
    exact(gathering(lambda x, h: h, total), residual(2), residual(5, width), X)


@pytest.mark.parametrize(
    ("result", "together"),
    [
        pytest.param(lambda x, h: x, SUMS["of all"], id="a sum of streams"),
        pytest.param(lambda x, h: h, lambda each: each.mean(0), id="a mean over layers"),
        pytest.param(lambda x, h: h, lambda each: jnp.cos(each).sum(0), id="a sum of cosines"),
        pytest.param(lambda x, h: h, lambda each: each.max(0), id="the largest"),
        pytest.param(lambda x, h: h, lambda each: each[-1], id="the last"),
    ],
)
def test_other_results_of_all_layers_are_refused(result, together):
    fn = gathering(result, together)
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, residual(2), residual(5), X)
