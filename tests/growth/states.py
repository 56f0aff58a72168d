"""Training states as a run leaves them, and what a model makes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.step.state import TrainState


def shaken(tree, seed=0):
    """Biases, scales and statistics too, so that nothing is 0 or 1 by construction."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + jnp.asarray(np.abs(rng.normal(size=x.shape)) * 0.1, x.dtype), tree
    )


def stepped(params, model_state, tx, seed=1):
    """A state that has been trained: moments that are not 0."""
    state = TrainState.create(params, tx, model_state=model_state, rng=5)
    grads = shaken(jax.tree.map(jnp.zeros_like, params), seed)
    _, opt_state = tx.update(grads, state.opt_state, params)
    return state.replace(opt_state=opt_state, step=jnp.int32(7))


def linen_state(module, x, tx, **mode):
    variables = shaken(dict(jax.jit(functools.partial(module.init, **mode))(jax.random.key(0), x)))
    return stepped(variables.pop("params"), variables, tx)


def outputs(module, state, x, **mode):
    run = jax.jit(functools.partial(module.apply, **mode))
    return run({"params": state.params, **state.model_state}, x)
