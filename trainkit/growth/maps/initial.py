"""Initial values for leaves of new layers that copy no old leaf."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.maps.kernel import arithmetic


def initial(
    becomes: str, shape: tuple[int, ...], dtype: Any, key: jax.Array | None, start: int = 0
) -> jax.Array:
    """An array of zeros, ones, identities, or random values of a layer's usual size.

    Args:
      becomes: "zero", "one", "unit", "minus_one", "eye", "eyes", "eye_first", "eyes_first", or any
        other text for random values.
      shape, dtype: those of the result; integers are 0 where any value would do.
      key: a random key; `None`: `jax.random.key(0)`.
      start: the row where the identity matrix of an "eye" begins; other rows are 0.
    """
    needed = becomes not in ("zero", "one", "random")
    if becomes == "zero" or not (needed or jnp.issubdtype(dtype, jnp.inexact)):
        return jnp.zeros(shape, dtype)
    if becomes in ("one", "unit"):
        return jnp.ones(shape, dtype)
    if becomes == "minus_one":
        return jnp.full(shape, -1, dtype)
    if becomes == "eyes":
        return jnp.asarray(np.broadcast_to(np.eye(shape[-1]), shape), dtype)
    if becomes == "eyes_first":
        some = np.eye(shape[0]).reshape(*shape[:2], *(1,) * (len(shape) - 2))
        return jnp.asarray(np.broadcast_to(some, shape), dtype)
    if becomes == "eye_first":
        turned = identity_kernel((*shape[2:], *shape[:2]), dtype)
        return jnp.asarray(np.moveaxis(turned, (-2, -1), (0, 1)))
    if becomes == "eye":
        return jnp.asarray(identity_kernel(shape, dtype, start))
    key = jax.random.key(0) if key is None else key
    inputs = max(1, math.prod(shape[:-1]))
    drawn = jax.random.normal(key, shape, arithmetic(dtype)) / math.sqrt(inputs)
    return drawn.astype(dtype)


def identity_kernel(shape: tuple[int, ...], dtype: Any, start: int = 0) -> np.ndarray:
    """The identity of a dense [n, n] or convolution [..., n, n] kernel with odd sides.

    A kernel may have more rows than columns: the identity begins in row `start`.

    >>> identity_kernel((3, 1, 1), np.float32).ravel().tolist()
    [0.0, 1.0, 0.0]
    >>> identity_kernel((3, 1), np.float32, start=2).ravel().tolist()
    [0.0, 0.0, 1.0]
    """
    out = np.zeros(shape, dtype)
    centre = tuple(size // 2 for size in shape[:-2])
    out[centre] = np.eye(shape[-2], shape[-1], -start, dtype=dtype)
    return out
