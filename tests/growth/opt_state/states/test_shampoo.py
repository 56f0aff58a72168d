"""Shampoo's covariances and roots, as those of a run on the grown gradients."""

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


# Copies of unequal factors, and three new units.
UNEVEN = AxisMap(np.array([0, 1, 2, 0, 2]), np.ones(5), np.array([0.3, 1.0, 0.5, 0.7, 0.5]))
APPENDED = AxisMap(np.array([0, 1, -1, -1, -1]), np.ones(5), np.ones(5))
RULES = {
    "averages": lambda: tt.shampoo(0.1, precondition_frequency=3),
    "sums": lambda: tt.shampoo(0.1, sums=True, graft="adagrad", precondition_frequency=2),
    "of 2018": lambda: tt.shampoo(0.1, 0.0, sums=True, graft=None, precondition_frequency=1),
}


def after(tx, params, gradients):
    state, update = tx.init(params), jax.jit(tx.update)
    for g in gradients:
        updates, state = update(g, state, params)
    return updates, state


def gradients(shape, n=6):
    rng = np.random.default_rng(0)
    return [{"w": jnp.asarray(rng.normal(size=shape))} for _ in range(n)]


def grown(g, axes):
    f = [np.ones(n) if a is None else a.gradient for n, a in zip(g.shape, axes, strict=True)]
    at = [np.arange(n) if a is None else a.source for n, a in zip(g.shape, axes, strict=True)]
    return np.asarray(g)[np.ix_(*at)] * np.outer(*f)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "axes", [(copied(3, 1 / 2), copied(2, 1 / 3)), (None, copied(2, 1 / 2)), (UNEVEN, None)]
)
def test_a_grown_state_is_that_of_a_run_on_the_grown_gradients(rule, axes):
    tx, gs = RULES[rule](), gradients((3, 2))
    params = {"w": jnp.ones((3, 2))}
    _, state = after(tx, params, gs)
    wide = [{"w": jnp.asarray(grown(g["w"], axes))} for g in gs]
    big = {"w": jnp.ones(wide[0]["w"].shape)}
    _, wanted = after(tx, big, wide)
    got = grow_opt_state(tx, state, MapData({"w": LeafMap(axes)}), params, big)
    # Where rows grow unevenly, nothing that is kept tells what becomes of the columns' covariance.
    kept = lambda s: [s[0].mu, s[0].nu, s[0].gg["w"][: 1 if axes[0] is UNEVEN else 2]]
    alike = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12)
    jax.tree.map(alike, kept(got), kept(wanted))
    # Of a null space any root is as good: what is compared is the direction of a grown gradient,
    # which the roots of uneven copies have only after a refresh.
    if axes[0] is not UNEVEN:
        turn = lambda s: s[0].roots["w"][0] @ wide[-1]["w"] @ s[0].roots["w"][1]
        np.testing.assert_allclose(turn(got), turn(wanted), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("axes", [(UNEVEN, copied(2, 1 / 2)), (copied(3, 0.5), APPENDED)])
def test_folding_loses_nothing_and_roots_stay_positive(rule, axes):
    tx, params = RULES[rule](), {"w": jnp.ones((3, 2))}
    _, state = after(tx, params, gradients((3, 2)))
    big = {"w": jnp.ones(tuple(len(a.source) for a in axes))}
    growth = MapData({"w": LeafMap(axes)})
    got = grow_opt_state(tx, state, growth, params, big)
    for root in got[0].roots["w"]:
        assert np.linalg.eigvalsh(root).min() > 0
    back = fold_opt_state(tx, got, growth, params, big)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), back, state)


def test_what_cannot_grow_is_refused():
    axes = (None, copied(4, 0.5))
    params, big = {"w": jnp.ones((4, 4))}, {"w": jnp.ones((4, 8))}
    tx = tt.shampoo(0.1, max_precond_dim=6)
    with pytest.raises(GrowthError, match="max_precond_dim"):
        grow_opt_state(tx, tx.init(params), MapData({"w": LeafMap(axes)}), params, big)
    params, big = {"w": jnp.ones((2, 4, 4))}, {"w": jnp.ones((2, 4, 8))}
    tx, how = tt.shampoo(0.1, stacked={"w": 1}), MapData({"w": LeafMap((None, *axes))})
    with pytest.raises(GrowthError, match="one for each layer"):
        grow_opt_state(tx, tx.init(params), how, params, big)
    assert grow_opt_state(tx, tx.init(params), how, params, big, reset=True)
