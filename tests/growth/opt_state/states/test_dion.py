"""Dion's momentum and right factor, as those of a run on the grown gradients."""

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
AXES = {
    "both": (copied(3, 1 / 2), copied(2, 1 / 3)),
    "inputs": (copied(3, 1 / 2), None),
    "outputs": (None, copied(2, 1 / 2)),
    "uneven": (UNEVEN, None),
}


def setting(axes, **kind):
    """A rule, its state after a few steps, the growth, and both kinds of parameters."""
    rng = np.random.default_rng(0)
    tx, params = tt.dion(0.1, **kind), {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state = tx.init(params)
    for _ in range(4):
        g = {"w": jnp.asarray(rng.normal(size=(3, 2))), "b": jnp.asarray(rng.normal(size=2))}
        _, state = tx.update(g, state, params)
    sizes = [n if a is None else len(a.source) for n, a in zip((3, 2), axes, strict=True)]
    big = {"w": jnp.ones(sizes), "b": jnp.ones(sizes[1])}
    growth = MapData({"w": LeafMap(axes), "b": LeafMap((axes[1],))})
    return tx, state, growth, params, big, g


@pytest.mark.parametrize("name", [n for n in AXES if n != "uneven"])  # whose directions turn
def test_the_next_step_is_the_grown_one(name):
    """Of rank 1 before and after: the small model's step, of length 1 among more units."""
    axes = AXES[name]
    tx, state, growth, params, big, g = setting(axes)
    got = grow_opt_state(tx, state, growth, params, big)
    f = [np.ones(n) if a is None else a.gradient for n, a in zip((3, 2), axes, strict=True)]
    at = [np.arange(n) if a is None else a.source for n, a in zip((3, 2), axes, strict=True)]
    grown = lambda w: np.asarray(w)[np.ix_(*at)] * np.outer(*f)
    wide = {"w": jnp.asarray(grown(g["w"])), "b": g["b"][at[1]] * f[1]}
    np.testing.assert_allclose(got[0].mu["w"], grown(state[0].mu["w"]), atol=1e-14)
    small, after = tx.update(g, state, params)
    large, there = tx.update(wide, got, big)
    np.testing.assert_allclose(there[0].mu["w"], grown(after[0].mu["w"]), atol=1e-12)
    unit = lambda x: x / np.linalg.norm(x)
    np.testing.assert_allclose(unit(large["w"]), unit(grown(small["w"])), atol=1e-12)


@pytest.mark.parametrize("name", AXES)
def test_folding_loses_nothing(name):
    tx, state, growth, params, big, _ = setting(AXES[name], rank_fraction=0.5)
    got = grow_opt_state(tx, state, growth, params, big)
    assert got[0].right_factor["w"].shape == tx.init(big)[0].right_factor["w"].shape
    back = fold_opt_state(tx, got, growth, params, big)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), back, state)


def test_more_columns_find_what_the_others_have_not():
    tx, state, growth, params, big, _ = setting(AXES["both"], rank_fraction=1.0)
    got = grow_opt_state(tx, state, growth, params, big)
    assert got[0].right_factor["w"].shape == (6, 4)
    full = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(6, 4))), "b": jnp.ones(4)}
    u, _ = tx.update(full, got, big)
    assert np.linalg.matrix_rank(u["w"]) == 4


def test_moments_of_chosen_leaves_are_reset():
    tx, state, growth, params, big, _ = setting(AXES["both"])
    got = grow_opt_state(tx, state, growth, params, big, reset=["w"])
    assert not got[0].mu["w"].any()
    assert got[0].mu["b"].any()


def test_stacked_factors_are_refused():
    tx = tt.dion(0.1, stacked={"w": 1})
    params, big = {"w": jnp.ones((2, 4, 3))}, {"w": jnp.ones((2, 4, 6))}
    how = MapData({"w": LeafMap((None, None, copied(3, 0.5)))})
    with pytest.raises(GrowthError, match=r"one for each layer(.|\n)*reset=True"):
        grow_opt_state(tx, tx.init(params), how, params, big)


def test_a_factor_of_another_matrix_is_refused():
    tx, state, growth, params, big, _ = setting(AXES["inputs"])
    other = state[0]._replace(right_factor=state[0].right_factor | {"w": jnp.ones((2, 1))})
    with pytest.raises(GrowthError, match=r"slot of 'w'.*has 2 units"):
        grow_opt_state(tx, (other, *state[1:]), growth, params, big)
