"""Optimizer states of models that gain layers have the shapes of fresh ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt
from tests.growth import zoo
from tests.growth.checking import small
from trainkit import growth

ALWAYS = {"under a scan", "experts in a list"}
CASES = [
    pytest.param(name, case, marks=() if name in ALWAYS else pytest.mark.slow)
    for name, model in zoo.models(axis="depth", how="identity").items()
    for case in model.exact
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_shapes_are_those_of_a_fresh_state(name, case, x64):
    it = small(name, "float64")
    way, tx = it.plan(case).realise(jax.random.key(0)), optax.adamw(1e-2)
    with jax.numpy_dtype_promotion("standard"):  # Optax's own Adam needs it
        state = jax.tree.map(lambda x: x + 1, tx.init(it.params))
        big = way.params(it.params, like=it.big(case)[1])
        grown = way.opt_state(tx, state, it.params, big)
        fresh = jax.eval_shape(tx.init, it.big(case)[1])
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(lambda s: s.shape, fresh)
    for path, moment in jax.tree_util.tree_leaves_with_path(grown[0].nu):
        assert np.all(np.asarray(moment) > 0), path  # never 0 under an old count


def before(p, x):
    return jnp.tanh(x @ p["in"] + p["b"]) @ p["out"]


def after(p, x):
    h = jnp.tanh(x @ p["in"] + p["b"])
    return (h + jnp.tanh(h @ p["wide"] + p["shift"]) @ p["narrow"]) @ p["out"]


SHAPES = {"in": (3, 4), "b": (4,), "out": (4, 2)}
NEW = {"wide": (4, 6), "shift": (6,), "narrow": (6, 4)}
RULES = {
    "adam": optax.adam(0.1),
    "adafactor": optax.adafactor(0.1, decay_rate=0.8),
    "adafactor, factored": optax.adafactor(0.1, decay_rate=0.8, min_dim_size_to_factor=2),
    "sm3": optax.sm3(0.1),
    "dion": tt.dion(0.1),
    "kron": tt.kron(0.1),
    "kron, diagonal": tt.kron(0.1, max_precond_dim=1),
    "shampoo": tt.shampoo(0.1),
    "soap": tt.soap(0.1, precondition_frequency=3),
}


@pytest.mark.parametrize("rule", RULES)
def test_leaves_that_no_old_one_is_like(rule, x64):
    """The others keep their slots, and the first steps are not longer than steps usually are."""
    tx, rng = RULES[rule], np.random.default_rng(0)
    drawn = lambda shapes: {n: jnp.asarray(rng.normal(size=s)) for n, s in shapes.items()}
    params = drawn(SHAPES)
    big = {n: jax.ShapeDtypeStruct(s, float) for n, s in (SHAPES | NEW).items()}
    plan = growth.plan(before, after, params, big, jnp.ones((2, 3)), how="identity")
    with jax.numpy_dtype_promotion("standard"):
        state, update = tx.init(params), jax.jit(tx.update)
        for _ in range(10):
            _, state = update(drawn(SHAPES), state, params)
        way = plan.realise(jax.random.key(0))
        grown = way.params(params)
        moved = way.opt_state(tx, state, params, grown)
        fresh = jax.eval_shape(tx.init, grown)
        shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
        assert shapes(moved) == shapes(fresh)
        for _ in range(5):
            grads = drawn(SHAPES)
            old, state = update(grads, state, params)
            new, moved = update(grads | drawn(NEW), moved, grown)
            for name in SHAPES:
                np.testing.assert_allclose(new[name], old[name], rtol=1e-9, atol=1e-12)
            longest = max(rms(old[name]) for name in SHAPES)
            for name in NEW:
                assert 0 < rms(new[name]) < 2 * longest, name


def rms(x):
    return float(jnp.sqrt(jnp.mean(x**2)))
