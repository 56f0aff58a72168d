"""Random values for padding units, computed element by element.

`jax.random` draws whole arrays, and on CPU its loop needs several times their memory. Here each
element is a hash of the key and its coordinates (Appleby's 32-bit finaliser, once per dimension).
XLA computes it where it is used, so growth needs no additional memory, and no communication on a
sharded axis. The values are good enough to break the symmetry of copies, but not for statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def normal(key: jax.Array, place: Sequence[np.ndarray], dtype: Any) -> jax.Array:
    """Standard normal values (of 23 random bits each), a function of key and place alone.

    Args:
      key: a random key.
      place: for each dimension, uint32[size] of coordinates. Entries with equal coordinates get
        equal values.
      dtype: the dtype of the result.

    >>> x = normal(jax.random.key(0), [np.arange(1000, dtype=np.uint32)], jnp.float32)
    >>> bool(abs(x.mean()) < 0.1) and bool(abs(x.std() - 1) < 0.1)
    True
    """
    shape = tuple(map(len, place))
    words = jax.random.key_data(key).reshape(-1)
    bits = jnp.broadcast_to(words[0], shape)
    for d, along in enumerate(place):
        at = jnp.asarray(along).reshape([-1 if e == d else 1 for e in range(len(shape))])
        bits = _mixed(bits ^ (at * jnp.uint32(0x9E3779B9) + words[-1]))
    # Odd multiples of 2⁻²⁴: neither 0 nor 1, where the inverse of erf is infinite.
    uniform = ((bits >> jnp.uint32(9)) * jnp.uint32(2) + jnp.uint32(1)).astype(jnp.float32)
    uniform = uniform * jnp.float32(2.0**-24)
    return (jnp.float32(2**0.5) * jax.lax.erf_inv(2 * uniform - 1)).astype(dtype)


def _mixed(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> jnp.uint32(16))
