"""What a larger vocabulary costs: probability that goes to tokens the model has never seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def leaked_mass(logits: jax.Array, old: int) -> jax.Array:
    """The probability that goes to new tokens, Σ_{j ≥ old} softmax(logits)_j, mean over the rest.

    The old logits are exact after growth, but the softmax is over more of them. Where new rows hold
    the mean of the old ones, as growth leaves them, a new token's logit is the mean of the old
    logits, so that at most (new − old)/new leaks (Jensen).

    Args:
      logits: float[…, new], of the grown model.
      old: the size of the vocabulary before.

    Raises:
      ValueError: `old` is not a size below that of the logits.

    >>> import jax.numpy as jnp
    >>> float(leaked_mass(jnp.zeros((2, 4)), 3))
    0.25
    """
    if not 0 < old <= logits.shape[-1]:
        raise ValueError(f"old={old} must be from 1 to {logits.shape[-1]}, the size of the logits")
    return jnp.mean(jnp.sum(jax.nn.softmax(logits)[..., old:], -1))
