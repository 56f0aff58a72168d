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


def test_float64_has_its_own_range(x64):
    g = {"a": jnp.array([3e200, 4e200]), "b": jnp.array([jnp.inf])}
    assert float(tt.safe_norm(g["a"])) == pytest.approx(5e200, rel=1e-14)
    assert float(tt.safe_norm(g["a"] * 1e-400 * 1e-100)) == 0
    assert float(tt.safe_norm(g["a"] / 1e200 * 1e-200)) == pytest.approx(5e-200, rel=1e-14)
    found, _ = tt.clip_by_global_norm(1.0).update(g, STATE)
    assert found["a"].tolist() == [0, 0]
    assert found["b"].tolist() == [1]


def test_the_gradients_are_read_twice_and_once_more_only_where_squares_do_not_tell():
    g = {str(i): jnp.ones((8, 4)) for i in range(6)}
    program = jax.make_jaxpr(tt.clip_by_global_norm(1.0).update)(g, STATE)
    (cond,) = (eqn for eqn in program.eqns if eqn.primitive.name == "cond")
    sums = lambda eqns: sum(eqn.primitive.name.startswith("reduce") for eqn in eqns)
    assert sums(program.eqns) == len(g)
    assert sorted(sums(equations(body)) for body in bodies(cond)) == [0, len(g)]
