"""Shrink-and-perturb."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainkit import TrainState, growth
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.perturb import shrink_and_perturb

PARAMS = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones(4), "n": jnp.arange(3)}


def test_the_formula_with_fresh_parameters():
    fresh = jax.tree.map(lambda w: jnp.full_like(w, 2), PARAMS)
    out = shrink_and_perturb(PARAMS, shrink=0.5, perturb=0.25, fresh=fresh)
    np.testing.assert_array_equal(out["w"], PARAMS["w"] * 0.5 + 0.5)
    np.testing.assert_array_equal(out["b"], np.ones(4))
    np.testing.assert_array_equal(out["n"], PARAMS["n"])


def test_drawn_values_have_the_leafs_own_size_and_follow_the_key():
    params = {"w": 3.0 * jax.random.normal(jax.random.key(1), (64, 64)), "b": jnp.ones(4)}
    out = shrink_and_perturb(params, jax.random.key(0), shrink=0.5, perturb=0.1)
    again = shrink_and_perturb(params, jax.random.key(0), shrink=0.5, perturb=0.1)
    np.testing.assert_array_equal(out["w"], again["w"])
    noise = out["w"] - 0.5 * params["w"]
    np.testing.assert_allclose(noise.std(), 0.3, rtol=0.05)  # 4,096 draws
    np.testing.assert_array_equal(out["b"], params["b"])


def test_errors():
    for negative in ({"shrink": -1.0}, {"perturb": -1e-3}):
        with pytest.raises(ValueError, match="0 or more"):
            shrink_and_perturb(PARAMS, fresh=PARAMS, **negative)
    none = shrink_and_perturb(PARAMS, shrink=0.0, perturb=0.0, fresh=PARAMS)
    assert not none["w"].any()
    with pytest.raises(ValueError, match="key="):
        shrink_and_perturb(PARAMS)
    with pytest.raises(GrowthError, match=r"has shape .* and nothing"):
        shrink_and_perturb(PARAMS, fresh={"b": PARAMS["b"]})
    turned = {**PARAMS, "w": PARAMS["w"].T}
    with pytest.raises(GrowthError, match=r"w has shape \(3, 4\) and \(4, 3\) in the fresh"):
        shrink_and_perturb(PARAMS, fresh=turned)


def test_a_state_is_widened_and_perturbed_by_name():
    """0.4 of the grown parameters, 0.1 of those the big model starts from, and fresh moments."""
    net = lambda width: nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(2)])
    x, tx, key = jnp.ones((4, 3)), optax.adam(1e-3), jax.random.key(5)
    params = net(4).init(jax.random.key(0), x)["params"]
    state = TrainState.create(params, tx).replace(step=jnp.int32(7))
    plain = growth.grow(state, net(4), net(8), x, tx=tx, key=key)
    grown = growth.grow(state, net(4), net(8), x, tx=tx, key=key, how="perturb")
    fresh = net(8).init(jax.random.fold_in(key, 0), x)["params"]
    wanted = jax.tree.map(lambda w, new: 0.4 * w + 0.1 * new, plain.params, fresh)
    for old, new in zip(jax.tree.leaves(wanted), jax.tree.leaves(grown.params), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
    assert int(grown.opt_state[0].count) == 0
    assert int(grown.step) == 7
