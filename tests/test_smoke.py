"""The least that must work on every supported line of Python and JAX."""

import jax
import jax.numpy as jnp
import optax

import trainkit


def test_state_is_a_pytree_of_five_fields():
    state = trainkit.TrainState.create({"w": jnp.ones(3)}, optax.sgd(0.1), rng=0)
    paths = {path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert paths == {"step", "params", "rng"}  # sgd and an empty model state hold no leaves
    doubled = jax.jit(lambda s: s.replace(step=s.step + 1))(state)
    assert isinstance(doubled, trainkit.TrainState)
    assert int(doubled.step) == 1
