"""Editing the state of chosen parameters where the parameters are one bare array."""

import jax
import jax.numpy as jnp
import pytest

import trainkit
import trainkit.transforms as tt


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_a_bare_array_has_its_moments_edited_and_nothing_else(shape):
    tx = tt.named(adam=tt.adam(1e-2), average=tt.average_params(tt.identity()))
    params = jnp.full(shape, 2.0)
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(params, state, params)
    edited = tt.edit_state(state, params, ".*", lambda x: 3 * x)
    assert jnp.array_equal(tt.get(edited, "adam.mu"), 3 * tt.get(state, "adam.mu"))
    assert jnp.array_equal(tt.get(edited, "average.average"), 3 * tt.get(state, "average.average"))
    kept = lambda s: [x for x in jax.tree.leaves(s) if x.shape != shape]
    assert all(bool(a == b) for a, b in zip(kept(edited), kept(state), strict=True))
    assert any(bool(x) for x in kept(state))

    whole = trainkit.TrainState.create(params, tx).replace(opt_state=state)
    reset = tt.reset_state(tx, whole, params, "").opt_state
    assert not bool(tt.get(reset, "adam.nu").any())
    assert all(bool(a == b) for a, b in zip(kept(reset), kept(state), strict=True))
    with pytest.raises(ValueError, match="matches none of the parameters"):
        tt.edit_state(state, params, "head", jnp.zeros_like)
