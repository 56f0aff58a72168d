"""Norms that neither overflow nor vanish, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt
from trainkit._core.jaxprs import bodies, equations

STATE = optax.EmptyState()
# Of both signs and many sizes, so that one power of two cannot suit all of them.
SIZES = [1e-36, 1e-30, 1e-20, 1e-19, 1e-12, 1e-5, 1.0, 1e5, 1e12, 1e18, 1e19, 1e20, 1e30, 3e38]


def tree(size, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (size * rng.uniform(-1, 1, shape)).astype(np.float32)
    return {"a": draw(3, 4), "b": draw(7) / 4, "c": draw(), "e": np.zeros((0, 2), np.float32)}


def norm(x):
    return np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(x)))


@pytest.mark.parametrize("bound", [1e-18, 1.0, 1e25])
def test_the_norm_at_every_size(bound):
    clip, safe = jax.jit(tt.clip_by_global_norm(bound).update), jax.jit(tt.safe_norm)
    each = jax.jit(tt.clip_by_norm(bound).update)
    for seed, size in enumerate(SIZES):
        g = tree(size, seed)
        exact = norm(g)
        if exact < np.finfo(np.float32).max:
            assert float(safe(g)) == pytest.approx(exact, rel=1e-6, abs=2e-38)
        for update, of in ((clip, exact), (each, None)):
            found, _ = update(g, STATE)
            for name, u in found.items():
                whole = norm(g[name]) if of is None else of
                if whole <= bound * (1 - 1e-6):
                    assert np.array_equal(u, g[name])
                elif whole > bound * (1 + 1e-6):
                    wanted = g[name].astype(np.float64) * (bound / whole)
                    np.testing.assert_allclose(u, wanted, rtol=2e-6, atol=bound * 1e-30)


@pytest.mark.parametrize("kind", [tt.clip_by_global_norm, tt.clip_by_norm])
def test_an_infinite_bound_leaves_everything_as_it_is(kind):
    g = jnp.array([jnp.inf, -2.0, 3e38])
    assert np.array_equal(kind(jnp.inf).update(g, STATE)[0], g)


def test_infinite_gradients_share_the_bound_and_nan_is_everywhere():
    clip = tt.clip_by_global_norm(2.0).update
    found, _ = clip({"a": jnp.array([jnp.inf, 3e38]), "b": jnp.array([0.0, -jnp.inf])}, STATE)
    # Finite elements are below float32's precision beside the bound.
    np.testing.assert_allclose(found["a"], [2**0.5, 0], rtol=1e-6, atol=1e-29)
    np.testing.assert_allclose(found["b"], [0, -(2**0.5)], rtol=1e-6)
    assert float(tt.safe_norm(jnp.array([np.finfo(np.float32).max]))) < np.inf
    found, _ = clip({"a": jnp.array([jnp.inf, 1.0]), "b": jnp.array([jnp.nan])}, STATE)
    assert all(np.isnan(u).all() for u in found.values())


@pytest.mark.parametrize("size", [1e-200, 1e-3, 1e3, 1e160])
def test_it_has_the_derivative_of_the_formula(x64, size):
    g, along = size * jnp.array([3.0, -4.0, 1.0]), jnp.array([0.5, 2.0, -1.0])
    clip = lambda g: tt.clip_by_global_norm(1.0).update(g, STATE)[0]
    found = jax.grad(lambda g: clip(g) @ along)(g)
    # d (u · v) = (v − (u · v) u) / ‖g‖ with u = g/‖g‖; v within the bound.
    length = size * 26**0.5
    unit = g / length
    wanted = (along - (unit @ along) * unit) / length if length > 1 else along
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert jax.grad(lambda g: clip(g) @ along)(0 * g).tolist() == along.tolist()


def test_in_shard_map_it_varies_as_the_gradients_do():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()
    clip = lambda g: tt.clip_by_global_norm(1.0).update(g, STATE)[0]
    g = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    run = jax.shard_map(clip, mesh=mesh, in_specs=({"a": split, "b": whole},), out_specs=split)
    found = jax.jit(run)(g)
    np.testing.assert_allclose(found["a"], [0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(found["b"], [0.8, 1.0], rtol=1e-6)


def test_float64_has_its_own_range(x64):
    g = {"a": jnp.array([3e200, 4e200]), "b": jnp.array([jnp.inf])}
    assert float(tt.safe_norm(g["a"])) == pytest.approx(5e200, rel=1e-14)
    assert float(tt.safe_norm(g["a"] * 1e-400 * 1e-100)) == 0
    assert float(tt.safe_norm(g["a"] / 1e200 * 1e-200)) == pytest.approx(5e-200, rel=1e-14)
    found, _ = tt.clip_by_global_norm(1.0).update(g, STATE)
    assert found["a"].tolist() == [0, 0]
    assert found["b"].tolist() == [1]


def test_the_gradients_are_read_twice_and_once_more_only_where_squares_do_not_tell():
    g = {str(i): jnp.ones((80, 80)) for i in range(6)}
    program = jax.make_jaxpr(tt.clip_by_global_norm(1.0).update)(g, STATE)
    (cond,) = (eqn for eqn in equations(program.jaxpr) if eqn.primitive.name == "cond")
    sums = lambda eqns: sum(eqn.primitive.name.startswith("reduce") for eqn in eqns)
    assert sums(equations(program.jaxpr)) == 2 * len(g)  # leaves too large to be read as one
    assert sorted(sums(equations(body)) for body in bodies(cond)) == [0, len(g)]


def test_small_and_large_leaves_of_several_dtypes_at_every_size():
    rng = np.random.default_rng(0)
    shapes = {"a": (70, 70), "b": (3,), "c": (), "d": (5000,)}
    for size in (1e-30, 1.0, 1e30):
        g = {k: jnp.asarray(size * rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
        g["b"] = g["b"].astype(jnp.bfloat16)
        assert float(tt.safe_norm(g)) == pytest.approx(norm(g), rel=1e-6)


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e30])
def test_complex_gradients_have_two_parts(size):
    g = {"a": size * jnp.array([3 + 4j, 0j]), "b": size * jnp.array([12.0])}
    assert float(tt.safe_norm(g)) == pytest.approx(13 * size, rel=1e-6)
    found, _ = tt.clip_by_global_norm(1.0).update(g, STATE)
    wanted = jax.tree.map(lambda x: np.asarray(x) / max(13 * size, 1), g)
    for name, u in found.items():
        assert u.dtype == g[name].dtype
        np.testing.assert_allclose(u, wanted[name], rtol=1e-6)
    alone, _ = tt.clip_by_norm(1.0).update(g, STATE)
    np.testing.assert_allclose(alone["a"], np.asarray(g["a"]) / max(5 * size, 1), rtol=1e-6)
