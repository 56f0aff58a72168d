"""GaLore's moments, in the basis of the grown gradient's singular vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit.growth import GrowthError
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.exact import exact
from trainkit.growth.opt_state.grow import fold_opt_state, grow_opt_state

B1, B2 = 0.9, 0.999


@pytest.fixture(autouse=True)
def _mode(x64):
    # Optax itself mixes dtypes in ways that the strict mode refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


def even(n, k):
    return AxisMap(np.repeat(np.arange(n), k), np.full(n * k, 1 / k), np.full(n * k, 1 / k))


def appended(n, m):
    at = np.arange(m)
    return AxisMap(np.where(at < n, at, -1), np.ones(m), np.ones(m))


def uneven(n):
    share = np.tile([0.3, 0.7], n)
    return AxisMap(np.repeat(np.arange(n), 2), share, share)


copied_unevenly = AxisMap(np.array([0, 0, 1, 2, 3, 4, 5]), np.ones(7), np.ones(7))


def by_definition(gradients, rank, gap, signs):
    """GaLore's directions and Adam's moments among them, in float64 NumPy.

    `signs` are directions whose signs are taken: those of singular vectors are nobody's.
    """
    mu = nu = p = None
    for t, g in enumerate(gradients):
        left = g.shape[0] >= g.shape[1]
        if t % gap == 0:
            u, _, vh = np.linalg.svd(g, full_matrices=False)
            p = u[:, :rank] if left else vh[:rank].T
            p = p * np.sign(np.sum(p * signs[t], 0))
        low = p.T @ g if left else g @ p
        mu = (1 - B1) * low + (0 if mu is None else B1 * mu)
        nu = (1 - B2) * low**2 + (0 if nu is None else B2 * nu)
    return p, mu, nu


def grown(g, axes):
    f = [np.ones(n) if a is None else a.gradient for n, a in zip(g.shape, axes, strict=True)]
    at = [np.arange(n) if a is None else a.source for n, a in zip(g.shape, axes, strict=True)]
    old = (at[0] >= 0)[:, None] & (at[1] >= 0)[None]
    return np.where(old, g[np.ix_(*at)] * np.outer(*f), 0.0)


CASES = {
    "left, even": ((6, 4), (even(6, 2), even(4, 3))),
    "left, columns uneven": ((6, 4), (even(6, 2), uneven(4))),
    "left, columns alone": ((9, 4), (None, uneven(4))),
    "left, new units": ((6, 4), (appended(6, 9), None)),
    "right, even": ((3, 5), (uneven(3), even(5, 2))),
    "right, rows alone": ((3, 7), (uneven(3), None)),
    "right, uneven alike": ((3, 5), (None, uneven(5))),
}


DEFAULT = ("left, columns uneven", "left, new units", "right, even")


@pytest.mark.parametrize(
    "name", [n if n in DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_moments_are_those_of_a_run_on_the_grown_gradients(name):
    shape, axes = CASES[name]
    rank, gap, rng = 3, 3, np.random.default_rng(0)
    gradients = [rng.normal(size=shape) for _ in range(5)]
    tx = optax.contrib.scale_by_galore(rank, gap)
    params = {"w": jnp.zeros(shape), "b": jnp.zeros(2)}
    state, signs = tx.init(params), []
    along = axes[0 if shape[0] >= shape[1] else 1]
    update = jax.jit(tx.update)
    for g in gradients:
        _, state = update({"w": jnp.asarray(g), "b": jnp.ones(2)}, state, params)
        p = np.asarray(state.projector["w"])
        signs.append(p if along is None else p[along.source] * (along.source >= 0)[:, None])
    big = {"w": jnp.zeros(grown(gradients[0], axes).shape), "b": jnp.zeros(2)}
    growth = MapData({"w": LeafMap(axes)})
    got = grow_opt_state(tx, state, growth, params, big)
    p, mu, nu = by_definition([grown(g, axes) for g in gradients], rank, gap, signs)
    # GaLore takes its singular vectors in float32.
    np.testing.assert_allclose(got.projector["w"], p, atol=2e-6)
    moments = got.base_optimizer_state
    np.testing.assert_allclose(moments.mu["w"], mu, atol=2e-6)
    known = nu != 0  # entries of new columns hold the mean
    np.testing.assert_allclose(np.where(known, moments.nu["w"], 0), nu, atol=1e-8)
    np.testing.assert_array_equal(moments.mu["b"], state.base_optimizer_state.mu["b"])
    # Folding it back loses nothing.
    back = fold_opt_state(tx, got, growth, params, big)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), back, state)


def test_more_directions():
    """Four wide, all four directions are kept; eight wide, another two that had no gradient."""
    axes = (even(6, 2), even(4, 2))
    tx = optax.contrib.scale_by_galore(6, 3)
    params, big = {"w": jnp.ones((6, 4))}, {"w": jnp.ones((12, 8))}
    g = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)))}
    _, state = tx.update(g, tx.init(params), params)
    got = grow_opt_state(tx, state, MapData({"w": LeafMap(axes)}), params, big)
    p = got.projector["w"]
    np.testing.assert_allclose(p.T @ p, np.eye(6), atol=1e-6)
    low = p.T @ grown(np.asarray(g["w"]), axes)
    np.testing.assert_allclose(low[4:], 0, atol=1e-6)
    moments = got.base_optimizer_state
    np.testing.assert_allclose(moments.mu["w"], (1 - B1) * low, atol=1e-7)
    assert np.all(moments.nu["w"] > 0)
    back = fold_opt_state(tx, got, MapData({"w": LeafMap(axes)}), params, big)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), back, state)


def test_exact_continuation():
    """Through a refresh of the projection and back: the grown matrix is the small one's."""
    tx, axes = optax.contrib.galore(1e-2, rank=2, update_proj_gap=4), (even(5, 2), even(3, 2))
    rng = np.random.default_rng(2)
    # Rows are read by halves and columns written whole: c = 1/2, f = 1/2.
    axes = (axes[0]._replace(gradient=np.ones(10)), axes[1]._replace(weight=np.ones(6)))
    growth = MapData({"w": LeafMap(axes)})
    params, target = {"w": jnp.asarray(rng.normal(size=(5, 3)))}, rng.normal(size=(5, 3))
    copied = lambda w: w[np.ix_(axes[0].source, axes[1].source)] / 2
    # The same loss of both: columns of the grown matrix are averaged, its rows summed.
    folded = lambda w: jnp.mean(jnp.sum(w.reshape(5, 2, 3, 2), 1), -1)
    loss = lambda w: jnp.sum(jnp.sin(w - target) ** 2)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(2):
        u, state = update(jax.tree.map(jax.grad(loss), params), state, params)
        params = optax.apply_updates(params, u)
    big = {"w": copied(params["w"])}
    follow, big_state = exact(tx, growth, params), grow_opt_state(tx, state, growth, params, big)
    wide = jax.jit(follow.update)
    for _ in range(12):
        u, state = update({"w": jax.grad(loss)(params["w"])}, state, params)
        params = optax.apply_updates(params, u)
        g = {"w": jax.grad(lambda w: loss(folded(w)))(big["w"])}
        u, big_state = wide(g, big_state, big)
        big = optax.apply_updates(big, u)
    np.testing.assert_allclose(big["w"], copied(params["w"]), atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "axes", "why"),
    [
        ((6, 4), (appended(6, 6)._replace(gradient=np.arange(1.0, 7)), None), "same number"),
        ((6, 4), (copied_unevenly, None), "same number of copies"),
        ((6, 4), (None, even(4, 2)), "the longer side"),
        ((2, 2, 3), (even(2, 2), None, None), None),
    ],
)
def test_refusals(shape, axes, why):
    params = {"w": jnp.zeros(shape)}
    growth = MapData({"w": LeafMap(axes)})
    size = [n if a is None else len(a.source) for n, a in zip(shape, axes, strict=True)]
    big = {"w": jnp.zeros(size)}
    numbers = optax.contrib.GaLoreDimensionNumbers((0, 1), 2) if why is None else None
    tx = optax.contrib.scale_by_galore(2, weight_dimension_numbers=numbers)
    with pytest.raises(GrowthError, match=why or "does not say which axes") as refused:
        grow_opt_state(tx, tx.init(params), growth, params, big)
    assert "'w'" in str(refused.value)
    assert "reset=True" in str(refused.value)
    grow_opt_state(tx, tx.init(params), growth, params, big, reset=True)
