"""`expand` and `fold` are adjoints of one another for dual factors, and inverses where they say so.

Growth along an axis multiplies by factors s_j the unit π(j). With v_j the factors that `fold` sums
with, <expand(x), y> = <x, fold(y)> where v = s, and fold(expand(x)) = x where Σ v_j s_j = 1.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.growth.axes.layouts import LAYOUTS
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.algebra import column_sums, expand, fold, pull_back, row_sums
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap

pytestmark = pytest.mark.usefixtures("x64")
# Few shapes, since each is compiled: sizes of an axis, and how it grows.
AXES = [(2, 4, "repeat"), (2, 4, "tile"), (3, 5, "repeat"), (2, 4, "append"), (2, 4, "stride"),
        (2, 6, "stride end"), (2, 2, None)]  # fmt: skip
axes = st.lists(st.sampled_from(AXES), min_size=1, max_size=2)


def leaf(spec, rng, *, dual: bool) -> LeafMap:
    """A leaf's growth with random factors; `dual`: those of plans, Σ c_j f_j = 1 for each unit."""
    grown = []
    for n, m, layout in spec:
        if layout is None:
            grown.append(None)
            continue
        source = LAYOUTS[layout](n, m)
        weight, gradient = rng.uniform(0.5, 2, (2, m))
        if dual:
            old = source >= 0
            total = np.bincount(source[old], (weight * gradient)[old], n)
            gradient = np.where(old, gradient / total[np.maximum(source, 0)], gradient)
        grown.append(AxisMap(source.astype(np.int32), weight, gradient))
    weight = float(rng.uniform(0.5, 2))
    gradient = 1 / weight if dual else float(rng.uniform(0.5, 2))
    return LeafMap(tuple(grown), weight, gradient)


def shapes(spec):
    return tuple(n for n, _, _ in spec), tuple(m for _, m, _ in spec)


def run(test):
    return settings(max_examples=20, derandomize=True, deadline=None, database=None)(
        given(axes, st.integers(0, 2**32 - 1))(test)
    )


@run
def test_pulling_back_is_the_adjoint_of_growing(spec, seed):
    rng = np.random.default_rng(seed)
    small, big = shapes(spec)
    how = leaf(spec, rng, dual=False)
    x, y = jnp.asarray(rng.normal(size=small)), jnp.asarray(rng.normal(size=big))
    one = jnp.vdot(expand(x, how, weight=1, new="fill"), y)
    other = jnp.vdot(x, pull_back(y, how, small))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.sqrt(y.size))


@run
def test_reading_weights_back_is_the_adjoint_of_growing_gradients(spec, seed):
    """<expand(g; f), w′> = <g, fold(w′; c)>, and the same with c and f exchanged."""
    rng = np.random.default_rng(seed)
    small, big = shapes(spec)
    how = leaf(spec, rng, dual=True)
    x, y = jnp.asarray(rng.normal(size=small)), jnp.asarray(rng.normal(size=big))
    for grow, read in (({"gradient": 1}, {"weight": 1}), ({"weight": 1}, {"gradient": 1})):
        one = jnp.vdot(expand(x, how, **grow), y)
        other = jnp.vdot(x, fold(y, how, small, **read))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.sqrt(y.size))


@run
def test_reading_back_inverts_growing(spec, seed):
    """Whatever the factors are, and in slots that have axes in front."""
    rng = np.random.default_rng(seed)
    small, _ = shapes(spec)
    x = jnp.asarray(rng.normal(size=(3, *small)))
    for how in (leaf(spec, rng, dual=False), leaf(spec, rng, dual=True)):
        for powers in ({"weight": 1}, {"gradient": 1}, {"gradient": 2}, {}):
            y = expand(x, how, lead=1, **powers)
            back = fold(y, how, (3, *small), lead=1, **powers)
            np.testing.assert_allclose(back, x, rtol=1e-12, atol=1e-12)


@run
def test_units_that_copy_nothing_hold_what_is_asked(spec, seed):
    rng = np.random.default_rng(seed)
    small, _ = shapes(spec)
    how = leaf(spec, rng, dual=True)
    x = rng.normal(size=small)
    zero, mean = (np.asarray(expand(jnp.asarray(x), how, new=new)) for new in ("zero", "mean"))
    for d, along in enumerate(how.axes):
        if along is not None and (along.source < 0).any():
            new = np.flatnonzero(along.source < 0)
            assert (np.take(zero, new, d) == 0).all()
            old = np.take(mean, np.flatnonzero(along.source >= 0), d).mean(d, keepdims=True)
            np.testing.assert_allclose(np.take(mean, new, d), old.repeat(len(new), d), atol=1e-12)


@run
def test_sums_of_grown_and_folded_values_are_known_in_advance(spec, seed):
    """sᵀx = Σ expand(x) and sᵀy = Σ fold(y), also with what units that copy nothing hold."""
    rng = np.random.default_rng(seed)
    for n, m, layout in spec:
        (axis,) = leaf([(n, m, layout)], rng, dual=True).axes
        x, y, q = rng.normal(size=n), rng.normal(size=m), int(rng.integers(3))
        fills = [axis] if axis is None else [axis, axis._replace(fill="mean")]
        for one in fills:
            for new in ("zero", "mean", "fill"):
                grown = expand(jnp.asarray(x), LeafMap((one,)), gradient=q, new=new)
                sums = column_sums(one, n, gradient=q, new=new)
                np.testing.assert_allclose(sums @ x, grown.sum(), rtol=1e-12, atol=1e-12)
        folded = fold(jnp.asarray(y), LeafMap((axis,)), (n,), gradient=q)
        sums = row_sums(axis, n, gradient=q)
        np.testing.assert_allclose(sums @ y, folded.sum(), rtol=1e-12, atol=1e-12)


def test_sums_where_means_are_those_over_a_factor_of_an_axis():
    rng = np.random.default_rng(0)
    source = np.concatenate([np.arange(24).reshape(2, 3, 4), np.full((2, 2, 4), -1)], 1)
    weight, gradient = rng.uniform(0.5, 2, (2, 40))
    axis = AxisMap(source.reshape(-1), weight, gradient, "mean", (2, 4))
    x, y, how = rng.normal(size=24), rng.normal(size=40), LeafMap((axis,))
    grown = expand(jnp.asarray(x), how, gradient=1, new="fill")
    sums = column_sums(axis, 24, gradient=1, new="fill")
    np.testing.assert_allclose(sums @ x, grown.sum(), rtol=1e-12)
    one = jnp.vdot(expand(jnp.asarray(x), how, weight=1, new="fill"), y)
    np.testing.assert_allclose(jnp.vdot(x, pull_back(y, how, (24,))), one, rtol=1e-12)


def test_shapes_that_do_not_fit_are_refused():
    axis = AxisMap(np.array([0, 1, 2, 0]), np.ones(4), np.ones(4))
    with pytest.raises(GrowthError, match=r"moment has shape \(3, 1\), but its map has 1 axes"):
        expand(jnp.ones((3, 1)), LeafMap((axis,)), what="moment")
    with pytest.raises(GrowthError, match="but its map has 1 axes"):
        expand(jnp.ones(3), LeafMap((axis,)), lead=1)
    with pytest.raises(GrowthError, match="but its map has 1 axes"):
        fold(jnp.ones((4, 1)), LeafMap((axis,)), (3, 1))
    with pytest.raises(GrowthError, match="axis 0 has 2 units, but its map copies unit 2"):
        expand(jnp.ones(2), LeafMap((axis,)))
