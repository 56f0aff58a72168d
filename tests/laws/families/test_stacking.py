"""The law of stacked layers, on rules that know them and on one that only says so."""

import jax
import jax.numpy as jnp
import optax
import pytest

import trainkit.transforms as tt
from trainkit import laws

RULES = {
    "muon": lambda stacked: tt.muon(1e-2, stacked=stacked),
    "lamb": lambda stacked: tt.lamb(1e-2, stacked=stacked),
    "clip_adaptive": lambda stacked: tt.clip_adaptive(0.1, stacked=stacked),
}


def unaware(stacked):
    del stacked
    return optax.lamb(1e-2)


def one_length(stacked):
    """Unit steps, by the largest norm among the layers in place of each layer's own."""

    def update(g, state, params=None):
        def one(path, x):
            axes = tuple(range(1, x.ndim)) if stacked and path[0].key == "layers" else None
            norm = jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True))
            return -0.1 * x / jnp.max(norm)

        return jax.tree_util.tree_map_with_path(one, g), state

    return optax.GradientTransformation(lambda params: (), update)


def check(make):
    return laws.check(lambda: make({}), claims={"stacked": make}, laws=["stacked"])


@pytest.mark.parametrize("name", RULES)
def test_rules_that_know_their_stacks(name):
    check(RULES[name]).raise_for_failures()


@pytest.mark.parametrize("make", [unaware, one_length])
def test_a_rule_that_mixes_layers_is_told_so(make):
    (failure,) = check(make).failures
    assert "one by one" in failure.message
    with jax.numpy_dtype_promotion("standard"), pytest.raises(AssertionError):
        exec(failure.reproducer, {})


def test_it_must_be_told_how_to_make_the_rule():
    report = laws.check(optax.sgd(0.1), claims="stacked", laws=["stacked"])
    assert report.results[0].outcome == "not applicable"
    assert "lambda stacked" in report.results[0].note
