"""A parameter of the grown model, against loops over its entries; and the way back."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit.growth.maps.leaf import grow_leaf, merged_leaf
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap

pytestmark = pytest.mark.usefixtures("x64")
SOURCES = {"repeat": [0, 0, 1, 1], "uneven": [0, 1, 1], "append": [0, 1, -1, -1], "none": None}
PAIRS = [("repeat", "append"), ("append", "append"), ("none", "uneven")]
DTYPES = [np.float64, np.complex128, np.int32]


def axis(name, rng, fill="zero", even=False):
    if SOURCES[name] is None:
        return None
    source = np.array(SOURCES[name], np.int32)
    weight = np.ones(len(source)) if even else rng.uniform(0.5, 2, len(source))
    return AxisMap(source, weight, np.ones(len(source)), fill)


def drawn(shape, dtype, rng):
    x = 3 * rng.normal(size=shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.normal(size=shape)
    return jnp.asarray(x, dtype)


def by_loops(w, how):
    """c · (w + s) − s, entry by entry, with 0 or means in new units, axis by axis."""
    out = np.asarray(w, complex) + how.shift
    for d, along in enumerate(how.axes):
        if along is not None:
            rows = list(np.moveaxis(out, d, 0))
            new = [
                c * (rows[i] if i >= 0 else np.mean(rows, 0) * (along.fill == "mean"))
                for i, c in zip(along.source, along.weight, strict=True)
            ]
            out = np.moveaxis(np.stack(new), 0, d)
    return how.weight * out - how.shift


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("names", PAIRS)
def test_each_entry(names, dtype):
    rng = np.random.default_rng(len(str(names)))
    w = drawn((2, 2), dtype, rng)
    for fill, shift in itertools.product(("zero", "mean"), (0.0, 1.0)):
        how = LeafMap(tuple(axis(n, rng, fill) for n in names), 1.5, shift=shift)
        grown = grow_leaf(w, how, None)
        assert grown.dtype == dtype
        if not np.issubdtype(dtype, np.inexact):  # copied as they are
            places = [np.array(SOURCES[n] or [0, 1]) for n in names]
            old = np.ix_(*(p >= 0 for p in places))
            copied = np.asarray(w)[np.ix_(*(np.maximum(p, 0) for p in places))]
            np.testing.assert_array_equal(np.asarray(grown)[old], copied[old])
            continue
        np.testing.assert_allclose(grown, by_loops(w, how), rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, jnp.bfloat16])
@pytest.mark.parametrize("names", PAIRS)
def test_even_growth_is_undone(names, dtype):
    rng = np.random.default_rng(0)
    w = drawn((2, 2), dtype, rng)
    for shift in (0.0, 1.0):
        how = LeafMap(tuple(axis(n, rng, even=True) for n in names), 0.5, shift=shift)
        back = merged_leaf(grow_leaf(w, how, None), how, (2, 2))
        assert back.dtype == dtype
        rough = 2e-2 if dtype == jnp.bfloat16 else 1e-6
        np.testing.assert_allclose(
            np.asarray(back, complex), np.asarray(w, complex), rtol=rough, atol=rough * (1 + shift)
        )


def test_what_does_not_grow_is_the_same_array():
    w = jnp.ones((2, 3))
    how = LeafMap((None, None))
    assert grow_leaf(w, how, None) is w
    assert merged_leaf(w, how, (2, 3)) is w
    np.testing.assert_array_equal(grow_leaf(w, how._replace(weight=2.0), None), 2 * w)
    np.testing.assert_array_equal(merged_leaf(2 * w, how._replace(weight=2.0), (2, 3)), w)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize("fill", ["zero", "mean", "random"])
def test_a_leaf_without_entries(fill, dtype):
    along = axis("append", np.random.default_rng(0), fill)
    how = LeafMap((None, along))
    with jax.debug_nans(True):
        grown = grow_leaf(jnp.zeros((0, 2), dtype), how, jax.random.key(0))
    assert (grown.shape, grown.dtype) == ((0, 4), dtype)


@pytest.mark.parametrize(("d", "dtype"), [(0, np.float32), (1, np.complex128)])
def test_random_units_have_the_size_of_the_leaf(d, dtype):
    rng, many = np.random.default_rng(1), 4000
    w = drawn((2, 3), dtype, rng)
    n = w.shape[d]
    source = np.concatenate([np.arange(n), np.full(many, -1)])
    weight = np.where(source < 0, 0.5, 1.0)
    axes = [None, None]
    axes[d] = AxisMap(source, weight, np.ones(len(source)), "random")
    how = LeafMap(tuple(axes))
    grown = np.moveaxis(np.asarray(grow_leaf(w, how, jax.random.key(0))), d, 0)
    np.testing.assert_allclose(grown[:n], np.moveaxis(np.asarray(w), d, 0), rtol=1e-6)
    rms = np.sqrt(np.mean(np.abs(np.asarray(w)) ** 2))
    new = grown[n:]
    size = np.sqrt(np.mean(np.abs(new) ** 2))
    np.testing.assert_allclose(size, 0.5 * rms, rtol=5 / np.sqrt(new.size))
    again = grow_leaf(w, how, jax.random.key(1))
    assert (np.moveaxis(np.asarray(again), d, 0)[n:] != new).all()
    if dtype != np.complex128:
        assert abs(new.mean()) < 5 * size / np.sqrt(new.size)  # of both signs
        positive = grow_leaf(jnp.abs(w), how, jax.random.key(0))
        assert (np.asarray(positive) >= 0).all()


def test_what_is_read_with_0_is_0_in_random_units_too():
    dead = AxisMap(np.array([0, 0, 1]), np.array([1.0, 0.0, 1.0]), np.ones(3))
    new = AxisMap(np.array([0, 1, -1]), np.ones(3), np.ones(3), "random")
    w = jnp.ones((2, 2))
    for how in (LeafMap((dead, new)), LeafMap((new, dead))):
        grown = np.asarray(grow_leaf(w, how, jax.random.key(0)))
        grown = grown if how.axes[0] is dead else grown.T
        assert not grown[1].any()
        assert grown[[0, 2]].all()
