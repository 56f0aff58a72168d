"""Newton and Schulz's iteration towards an orthogonal matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from trainkit.transforms.clipping import safe_norm

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(x: jax.Array, steps: int, eps: float) -> jax.Array:
    """About U Vᴴ of x = U S Vᴴ, by X ← a X + (b A + c A²) X with A = X Xᴴ (Jordan 2024)."""
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / (safe_norm(wide) + eps).astype(wide.dtype)
    a, b, c = _COEFFICIENTS
    dot = lambda y, z: jnp.matmul(y, z, precision="highest")
    for _ in range(steps):
        gram = dot(wide, wide.conj().T)
        wide = a * wide + dot(b * gram + c * dot(gram, gram), wide)
    return wide.T if x.shape[0] > x.shape[1] else wide
