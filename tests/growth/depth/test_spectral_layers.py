"""Fourier neural operators: spectral weights of 0 beside an identity matrix, in front of a ReLU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth.checking import names, predicted
from trainkit import growth

RNG = np.random.default_rng(0)
LINE, PLANE = RNG.normal(size=(3, 16, 2)), RNG.normal(size=(2, 2, 8, 8))


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


def padded(mixed, like):
    return jnp.pad(mixed, ((0, 0), (0, like.shape[1] - mixed.shape[1]), (0, 0)))


def written(mixed, like):
    rest = jnp.zeros((*like.shape[:2], mixed.shape[-1]), mixed.dtype)
    return rest.at[:, : mixed.shape[1]].set(mixed)


def operator(act, weights, put=padded, lifted=False):
    """A line with channels last; the last block has no function of its own."""

    def fn(p, x):
        h = x @ p["lift"] + p["lifted by"]
        h = act(h) if lifted else h
        for i, q in enumerate(p["operators"]):
            modes = jnp.fft.rfft(h, axis=1)
            mixed = jnp.einsum("bmi,iom->bmo", modes[:, :5], weights(q))
            mixed = jnp.fft.irfft(put(mixed, modes), n=h.shape[1], axis=1)
            h = mixed + h @ q["point"] + q["by"]
            h = act(h) if i < len(p["operators"]) - 1 or not lifted else h
        return act(h @ p["first"]) @ p["second"]

    return fn


def plane(p, x):
    """Channels first, with weights for low and for negative frequencies."""
    h = jnp.einsum("bixy,io->boxy", x, p["lift"])
    for q in p["operators"]:
        modes = jnp.fft.rfft2(h)
        mixed = jnp.zeros((len(h), q["point"].shape[1], *modes.shape[2:]), modes.dtype)
        low, negative = q["low"], q["negative"]
        low = jnp.einsum("bixy,ioxy->boxy", modes[:, :, :3, :3], low[0] + 1j * low[1])
        mixed = mixed.at[:, :, :3, :3].set(low)
        negative = jnp.einsum(
            "bixy,ioxy->boxy", modes[:, :, -3:, :3], negative[0] + 1j * negative[1]
        )
        mixed = mixed.at[:, :, -3:, :3].set(negative)
        beside = jnp.einsum("bixy,io->boxy", h, q["point"]) + q["by"][:, None, None]
        h = jax.nn.relu(jnp.fft.irfft2(mixed, s=h.shape[2:]) + beside)
    return jnp.einsum("bixy,io->boxy", h, p["second"])


def pair(q):
    return q["re"] + 1j * q["im"]


def floats(q):
    return jax.lax.complex(q["re"], q["im"])


def of_line(depth, n, weights=("re", "im")):
    block = dict.fromkeys(weights, (n, n, 5)) | {"point": (n, n), "by": (n,)}
    ends = {"lift": (2, n), "lifted by": (n,), "first": (n, 6), "second": (6, 2)}
    return ends | {"operators": [block] * depth}


def of_plane(depth, n):
    block = {"low": (2, n, n, 3, 3), "negative": (2, n, n, 3, 3), "point": (n, n), "by": (n,)}
    return {"lift": (2, n), "second": (n, 2), "operators": [block] * depth}


def draw(sizes):
    def one(path, shape):
        value = RNG.normal(0.3, 0.4, size=shape)
        complex_ = path[-1].key == "whole"
        return jnp.asarray(value + 1j * RNG.normal(size=shape) if complex_ else value)

    return jax.tree_util.tree_map_with_path(one, sizes, is_leaf=lambda s: isinstance(s, tuple))


def of_complex(depth, n):
    return of_line(depth, n, ("whole",))


CASES = {
    "padded": (operator(jax.nn.relu, pair), of_line, LINE),
    "written into zeros": (operator(jax.nn.relu, pair, written), of_line, LINE),
    "two floats": (operator(jax.nn.relu, floats), of_line, LINE),
    "behind a ReLU": (operator(jax.nn.relu, pair, lifted=True), of_line, LINE),
    "complex": (operator(jax.nn.relu, lambda q: q["whole"]), of_complex, LINE),
    "plane": (plane, of_plane, PLANE),
}  # fmt: skip


@pytest.mark.parametrize(("depth", "width"), [(2, 6), (2, 8), (3, 4), (4, 8), (3, 6)])
@pytest.mark.parametrize("case", CASES)
def test_exact(case, depth, width):
    fn, sizes, x = CASES[case]
    small, big = draw(sizes(2, 4)), draw(sizes(depth, width))
    plan = growth.plan(fn, fn, small, big, x)
    wanted = fn(small, x)
    for how in ("even", "uneven", "noise", "zero_out"):
        grown = plan.grow(small, key=jax.random.key(0), how=how)
        assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, big)
        assert jnp.abs(fn(grown, x) - wanted).max() <= 1e-12 * jnp.abs(wanted).max()


def test_other_functions_are_refused():
    """GELU(x) is no x for any x, and no parameter of the block is a gate."""
    fn = operator(jax.nn.gelu, pair)
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(fn, fn, draw(of_line(2, 4)), draw(of_line(3, 4)), LINE)


@pytest.mark.parametrize("case", ["padded", "plane"])
def test_gradients_and_moments(case):
    """The identity is one at the new width, where the rows of old matrices need not be split."""
    fn, sizes, x = CASES[case]
    small, big = draw(sizes(2, 4)), draw(sizes(3, 8))
    growth_map = growth.plan(fn, fn, small, big, x).realise(jax.random.key(0), "even")
    grown = growth_map.params(small)
    slope = jax.grad(lambda p: jnp.sum(jnp.sin(fn(p, x))))
    before, after = names(slope(small)), names(slope(grown))
    for name, leaf in growth_map.leaves.items():
        origin = growth_map.origin_of(name)
        if not origin.new:
            assert leaf.exact_gradient, name
            wanted, _ = predicted(before[origin.leaf], leaf)
            np.testing.assert_allclose(after[name], wanted, rtol=1e-9, atol=1e-9)
    tx = optax.adam(1e-2)
    state = growth_map.opt_state(tx, tx.init(small), small, grown)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(grown))
