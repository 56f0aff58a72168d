"""The probability that a larger vocabulary gives to new tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def leaked_mass(logits: jax.Array, old: int) -> jax.Array:
    """The probability of new tokens, Σ_{j ≥ old} softmax(logits)_j, averaged over leading axes.

    The old logits are exact after growth, but the softmax is over more entries. After growth, new
    rows hold the mean of the old ones, so the logit of a new token is the mean of the old logits.
    By Jensen's inequality, the result is then at most (new − old)/new.

    Args:
      logits: float[…, new], of the grown model.
      old: the size of the vocabulary before growth.

    Returns:
      A scalar array.

    Raises:
      ValueError: `old` is not a size below that of the logits.

    >>> import jax.numpy as jnp
    >>> float(leaked_mass(jnp.zeros((2, 4)), 3))
    0.25
    """
    if not 0 < old <= logits.shape[-1]:
        raise ValueError(f"old={old} must be from 1 to {logits.shape[-1]}, the size of the logits")
    return jnp.mean(jnp.sum(jax.nn.softmax(logits)[..., old:], -1))
