"""Shrink-and-perturb."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth

PARAMS = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones(4), "n": jnp.arange(3)}


def test_the_formula_with_fresh_parameters():
    fresh = jax.tree.map(lambda w: jnp.full_like(w, 2), PARAMS)
    out = growth.shrink_and_perturb(PARAMS, shrink=0.5, perturb=0.25, fresh=fresh)
    np.testing.assert_array_equal(out["w"], PARAMS["w"] * 0.5 + 0.5)
    np.testing.assert_array_equal(out["b"], np.ones(4))
    np.testing.assert_array_equal(out["n"], PARAMS["n"])


def test_drawn_values_have_the_leafs_own_size_and_follow_the_key():
    params = {"w": 3.0 * jax.random.normal(jax.random.key(1), (64, 64)), "b": jnp.ones(4)}
    out = growth.shrink_and_perturb(params, jax.random.key(0), shrink=0.5, perturb=0.1)
    again = growth.shrink_and_perturb(params, jax.random.key(0), shrink=0.5, perturb=0.1)
    np.testing.assert_array_equal(out["w"], again["w"])
    noise = out["w"] - 0.5 * params["w"]
    np.testing.assert_allclose(noise.std(), 0.3, rtol=0.05)  # 4,096 draws
    np.testing.assert_array_equal(out["b"], params["b"])


def test_errors():
    with pytest.raises(ValueError, match="0 or more"):
        growth.shrink_and_perturb(PARAMS, shrink=-1.0)
    with pytest.raises(ValueError, match="key="):
        growth.shrink_and_perturb(PARAMS)
    with pytest.raises(growth.GrowthError, match=r"has shape .* and nothing"):
        growth.shrink_and_perturb(PARAMS, fresh={"b": PARAMS["b"]})
