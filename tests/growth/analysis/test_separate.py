"""Rows of results and of tables: their new units may hold anything, since units never meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4))
IDS = RNG.integers(0, 3, 7, np.int32)


def logits(p, x):
    return x @ p["w"]


def unit(w, axis):
    return w / jnp.linalg.norm(w, axis=axis, keepdims=True)


ALONE = {
    "heads of unit length": lambda p, x: x @ unit(p["w"], 0),
    "by rsqrt": lambda p, x: x @ (p["w"] * jax.lax.rsqrt((p["w"] ** 2).sum(0, keepdims=True))),
    "a temperature each": lambda p, x: logits(p, x) / p["t"],
    "log": lambda p, x: jnp.log(jax.nn.softplus(logits(p, x))),
    "power": lambda p, x: jnp.abs(logits(p, x)) ** p["t"] ** 2,
    "in a loop": lambda p, x: jnp.stack([row / p["t"] for row in logits(p, x)]),
    "under vmap": lambda p, x: jax.vmap(lambda w, t: (x @ w) / t, 1, 1)(p["w"], p["t"][None]),
}
MET = {
    "sorted": lambda p, x: jnp.sort(1 / logits(p, x), -1),
    "summed up": lambda p, x: jnp.cumsum(1 / logits(p, x), -1),
    "softmax": lambda p, x: jax.nn.log_softmax(jnp.log(jnp.abs(logits(p, x)))),
    "mixed again": lambda p, x: (1 / logits(p, x)) @ logits(p, x).T,
}


def sizes(n):
    return {
        "w": jax.ShapeDtypeStruct((4, n), jnp.float64),
        "t": jax.ShapeDtypeStruct((n,), jnp.float64),
    }


def draw(seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(1, 0.3, size=s.shape)), sizes(3))


@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("name", ALONE)
def test_old_results_are_kept_and_new_ones_are_numbers(name, size):
    fn, small = ALONE[name], draw()
    grown = growth.plan(fn, fn, sizes(3), sizes(size), X).grow(small, key=jax.random.key(0))
    out = fn(grown, X)
    np.testing.assert_allclose(out[:, :3], fn(small, X), rtol=1e-12)
    assert jnp.isfinite(out).all()


@pytest.mark.parametrize("size", [5, 6])
def test_a_table_of_rows_of_unit_length(size):
    fn = lambda p, ids: unit(p["w"].T, 1)[ids] * p["t"][ids][:, None]
    small = draw()
    grown = growth.plan(fn, fn, sizes(3), sizes(size), IDS).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(fn(grown, IDS), fn(small, IDS), rtol=1e-12)
    assert jnp.isfinite(fn(grown, jnp.arange(size))).all()


@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("name", MET)
def test_refused_where_units_meet(name, size):
    with pytest.raises(growth.GrowthError):
        growth.plan(MET[name], MET[name], sizes(3), sizes(size), X)


def test_units_that_a_scatter_adds_meet():
    """As those that a product of matrices sums: 0 times what is no number is none."""

    def fn(p, x):
        n = p["t"].shape[0]
        return jnp.zeros(2).at[np.arange(n) % 2].add(p["t"] / logits(p, x)[0])

    with pytest.raises(growth.GrowthError, match="would enter `div`"):
        growth.plan(fn, fn, sizes(3), sizes(5), X, append=[("w", 1)])
