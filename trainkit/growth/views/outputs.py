"""Comparison of the outputs of two models."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def concrete(x: Any, rng: np.random.Generator) -> Any:
    """An input; random if it is a `ShapeDtypeStruct`."""
    if not isinstance(x, jax.ShapeDtypeStruct):
        return x
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.asarray(rng.normal(size=x.shape), x.dtype)
    return jnp.asarray(rng.integers(0, 2, x.shape), x.dtype)


def leading(x: Any, like: Any) -> Any:
    """The leading entries of an output x, in the shape of `like`."""
    return x if x.shape == like.shape else x[tuple(map(slice, like.shape))]


def relative_change(before: PyTree, after: PyTree) -> float:
    """max |after − before| / root mean square of before, over all floating outputs.

    >>> relative_change(jnp.array([3.0, 4.0]), jnp.array([3.0, 4.5])) == 0.5 / 12.5**0.5
    True
    """
    worst = 0.0
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if jnp.issubdtype(a.dtype, jnp.inexact) and a.size:
            a, b = np.asarray(a, np.float64), np.asarray(leading(b, a), np.float64)
            scale = float(np.sqrt(np.mean(a**2))) or 1.0
            change = float(np.max(np.abs(b - a))) / scale
            worst = max(worst, change if np.isfinite(change) else float("inf"))
    return worst
