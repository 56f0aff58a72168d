"""Kron's factors: what they make of a grown gradient, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit.transforms as tt
from trainkit.growth import GrowthError
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.grow import fold_opt_state, grow_opt_state


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


def copied(n, f):
    return AxisMap(np.arange(2 * n) % n, np.ones(2 * n), np.full(2 * n, f))


UNEVEN = AxisMap(np.array([0, 1, 2, 0, 2]), np.ones(5), np.array([0.3, 1.0, 0.5, 0.7, 0.5]))
APPENDED = AxisMap(np.array([0, 1, -1, -1]), np.ones(4), np.ones(4))
AXES = {
    "both": (copied(3, 1 / 2), copied(2, 1 / 3)),
    "outputs": (None, copied(2, 1 / 2)),
    "uneven": (UNEVEN, copied(2, 1 / 2)),
    "new units": (copied(3, 1 / 2), APPENDED),
}
KINDS = {"triangular": {}, "diagonal": {"max_precond_dim": 1}}


def setting(axes, scale=1.0, **kind):
    rng = np.random.default_rng(0)
    tx = tt.kron(0.1, **kind)
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2), "s": jnp.ones(())}
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(5):
        g = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        _, state = update(g, state, params)
    sizes = [n if a is None else len(a.source) for n, a in zip((3, 2), axes, strict=True)]
    big = {"w": jnp.ones(sizes), "b": jnp.ones(sizes[1]), "s": jnp.ones(())}
    growth = MapData(
        {"w": LeafMap(axes, gradient=scale), "b": LeafMap((axes[1],)), "s": LeafMap(())}
    )
    return tx, state, growth, params, big


def applied(factors, x):
    for axis, q in enumerate(factors):
        q = np.diag(q) if q.ndim == 1 else np.asarray(q)
        x = np.moveaxis(np.tensordot(q.T @ q, x, (1, axis)), 0, axis)
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["both", "outputs"])
def test_a_grown_gradient_is_whitened_as_the_small_one(kind, name):
    """Triangular, a direction keeps its length; diagonal, each copy has the entry itself."""
    axes = AXES[name]
    _, state, growth, params, big = (found := setting(axes, 3.0, **KINDS[kind]))
    got = grow_opt_state(found[0], state, growth, params, big)
    g = np.random.default_rng(1).normal(size=(3, 2))
    f = [np.ones(n) if a is None else a.gradient for n, a in zip((3, 2), axes, strict=True)]
    at = [np.arange(n) if a is None else a.source for n, a in zip((3, 2), axes, strict=True)]
    wide = 3 * g[np.ix_(*at)] * np.outer(*f)
    small = applied(state[0].factors["w"], g)[np.ix_(*at)]
    copies = np.prod([len(a) / n for n, a in zip((3, 2), at, strict=True)])
    wanted = small if kind == "diagonal" else small / copies**0.5
    np.testing.assert_allclose(applied(got[0].factors["w"], wide), wanted, atol=1e-12)
    if kind == "triangular":
        for q in got[0].factors["w"]:
            np.testing.assert_array_equal(q, jnp.triu(q))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", AXES)
def test_folding_loses_nothing(kind, name):
    tx, state, growth, params, big = setting(AXES[name], 0.5, **KINDS[kind])
    got = grow_opt_state(tx, state, growth, params, big)
    for q in jax.tree.leaves(got[0].factors):
        assert np.all((jnp.diagonal(q) if q.ndim == 2 else q) > 0)
    back = fold_opt_state(tx, got, growth, params, big)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), back, state)


def test_what_cannot_grow_is_refused():
    axes = (None, copied(4, 0.5))
    params, big = {"w": jnp.ones((4, 4))}, {"w": jnp.ones((4, 8))}
    tx = tt.kron(0.1, max_precond_dim=6)
    with pytest.raises(GrowthError, match="diagonal only before or only after"):
        grow_opt_state(tx, tx.init(params), MapData({"w": LeafMap(axes)}), params, big)
    params, big = {"w": jnp.ones((2, 4, 4))}, {"w": jnp.ones((2, 4, 8))}
    tx, how = tt.kron(0.1, stacked={"w": 1}), MapData({"w": LeafMap((None, *axes))})
    with pytest.raises(GrowthError, match="one for each layer"):
        grow_opt_state(tx, tx.init(params), how, params, big)
