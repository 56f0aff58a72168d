"""The one operation on arrays, for index maps of any kind, against NumPy; and its adjoint."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.growth.maps.kernel import Along, expand, fold, gather

pytestmark = pytest.mark.usefixtures("x64")
# Index maps that are made of repeats, uneven blocks, padding, several of these, and of none.
SOURCES = {
    "repeat": [0, 0, 1, 1],
    "tile": [0, 1, 0, 1],
    "uneven": [0, 0, 1],
    "append": [0, 1, -1],
    "stride": [0, -1, 1, -1],
    "stride end": [-1, 0, -1, 1],
    "centre": [-1, 0, 1, -1],
    "any": [1, -1, 0, 1, -1],
    "dropped": [1],
    "reversed": [1, 0],
}
sources = st.lists(st.sampled_from(sorted(SOURCES)), min_size=1, max_size=2)


def run(test):
    return settings(max_examples=12, derandomize=True, deadline=None, database=None)(
        given(sources, st.integers(0, 2**32 - 1))(test)
    )


def by_numpy(x, axes):
    """x′[j] = factor[j] · x[π(j)], and at ∅ fill[j] · Σ mean · x, axis by axis."""
    for d, along in axes.items():
        rows = np.moveaxis(x, d, 0)
        mean = np.zeros(rows.shape[1:]) if along.mean is None else np.tensordot(along.mean, rows, 1)
        fill = np.zeros(len(along.source)) if along.fill is None else along.fill
        new = [
            along.factor[j] * rows[i] if i >= 0 else fill[j] * mean
            for j, i in enumerate(along.source)
        ]
        x = np.moveaxis(np.stack(new), 0, d)
    return x


def drawn(names, rng, *, mean=False):
    axes = {}
    for d, name in enumerate(names):
        source = np.array(SOURCES[name])
        more = (rng.uniform(0, 1, 2), np.where(source < 0, 2.0, 0.0)) if mean else ()
        axes[d] = Along(source, rng.uniform(0.5, 2, len(source)), *more)
    return axes, rng.normal(size=[2] * len(names)), [len(SOURCES[name]) for name in names]


@run
def test_expand_is_what_it_says(names, seed):
    for mean in (False, True):
        axes, x, _ = drawn(names, np.random.default_rng(seed), mean=mean)
        got = expand(jnp.asarray(x), axes)
        np.testing.assert_allclose(got, by_numpy(x, axes), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("d", [0, 1, 2])
def test_means_over_a_factor_of_a_merged_axis(d):
    """At each place along the factors around it."""
    rng = np.random.default_rng(d)
    x = np.moveaxis(rng.normal(size=(2 * 3 * 4, 5, 2)), 0, d)
    old = np.arange(24).reshape(2, 3, 4)
    source = np.concatenate([old, np.full((2, 2, 4), -1)], 1).reshape(-1)
    mean, fill = rng.uniform(size=3), np.where(source < 0, rng.uniform(size=40), 0.0)
    got = expand(jnp.asarray(x), {d: Along(source, np.ones(40), mean, fill, (2, 4))})
    parts = np.moveaxis(x, d, 0).reshape(2, 3, 4, 10)
    new = np.repeat(np.einsum("omis,m->ois", parts, mean)[:, None], 2, 1)
    wanted = np.concatenate([parts, new], 1).reshape(40, 10)
    wanted *= np.where(source < 0, fill, 1.0)[:, None]
    got = np.moveaxis(np.asarray(got), d, 0).reshape(40, 10)
    np.testing.assert_allclose(got, wanted, rtol=1e-14, atol=1e-14)


@run
def test_fold_is_the_adjoint_of_expand(names, seed):
    """<expand(x), y> = <x, fold(y)> for equal factors."""
    rng = np.random.default_rng(seed)
    axes, x, big = drawn(names, rng)
    y = rng.normal(size=big)
    one = jnp.vdot(expand(jnp.asarray(x), axes), y)
    folded = fold(jnp.asarray(y), {d: (a.source, a.factor, 2) for d, a in axes.items()})
    np.testing.assert_allclose(one, jnp.vdot(x, folded), rtol=0, atol=1e-13 * y.size)


@run
def test_gather_takes_whole_numbers_too(names, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 9, [2] * len(names))
    got = np.asarray(gather(jnp.asarray(x), {d: np.array(SOURCES[n]) for d, n in enumerate(names)}))
    assert got.dtype == x.dtype
    wanted = x
    old = np.ones(got.shape, bool)
    for d, name in enumerate(names):
        source = np.array(SOURCES[name])
        wanted = np.take(wanted, np.maximum(source, 0), d)
        old &= (source >= 0).reshape([-1 if e == d else 1 for e in range(got.ndim)])
    np.testing.assert_array_equal(got[old], wanted[old])
