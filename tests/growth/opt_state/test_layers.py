"""Optimizer states of models that gain layers have the shapes of fresh ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth import zoo
from tests.growth.checking import small

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
