"""The calculus of one leaf: what grows by c^p · f^q, and how it is folded back.

Growth copies: x′[j, b] = c[j, b]^p · f[j, b]^q · x[π(j), π(b)]. A weight has (p, q) = (1, 0), a
gradient (0, 1), a squared gradient (0, 2). Because Σ_{j ∈ π⁻¹(i)} c_j f_j = 1, the transpose of one
of them is the inverse of the other: weights are read back with f, gradients with c.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.layout import take
from trainkit.growth.leaf import AxisGrowth, LeafGrowth

New = Literal["zero", "mean", "fill"]


def grown_shape(shape: tuple[int, ...], growth: LeafGrowth, lead: int = 0) -> tuple[int, ...]:
    """The shape after growth; `lead` axes in front belong to the slot, not to the parameter."""
    new = list(shape)
    for axis, along in enumerate(growth.axes):
        if along is not None:
            new[lead + axis] = len(along.source)
    return tuple(new)


def _check(shape: tuple[int, ...], growth: LeafGrowth, lead: int, what: str) -> None:
    if len(shape) != lead + len(growth.axes):
        raise GrowthError(
            f"{what} has shape {shape}, but its growth describes {len(growth.axes)} axes"
        )


def _wide(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to compute in: half precision is widened, so that factors do not round twice."""
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        return jnp.dtype(jnp.float32)
    return jnp.dtype(dtype)


def _power(weight: np.ndarray | float, gradient: np.ndarray | float, p: float, q: float):
    # NumPy has 0**0 = 1, which is what an exponent of 0 means here.
    return np.power(np.asarray(weight, float), p) * np.power(np.asarray(gradient, float), q)


def _has_new(along: AxisGrowth | None) -> bool:
    return along is not None and bool((np.asarray(along.source) < 0).any())


def _along(vector: np.ndarray, ndim: int, axis: int, dtype: jnp.dtype) -> jax.Array:
    shape = [1] * ndim
    shape[axis] = len(vector)
    return jnp.asarray(vector.reshape(shape), dtype)


def expand(
    x: jax.Array,
    growth: LeafGrowth,
    *,
    weight: float = 0.0,
    gradient: float = 0.0,
    new: New = "zero",
    lead: int = 0,
    what: str = "leaf",
) -> jax.Array:
    """x′ = c^weight · f^gradient · x[π]: linear in x, in x's dtype.

    Args:
      x: the old values.
      growth: how the leaf grows.
      weight: p, the power of the weight factor c.
      gradient: q, the power of the gradient factor f.
      new: what entries of new (∅) units hold: 0, the mean over the old entries of the same row or
        column, or what `growth` itself fills in ("fill"; random values count as 0, so that the map
        stays linear).
      lead: axes in front of x that are not the parameter's.
      what: how errors call x.

    >>> import numpy as np
    >>> axis = AxisGrowth(np.array([0, 1, 0]), np.array([.5, 1, .5]), np.ones(3))
    >>> expand(jnp.array([2.0, 3.0]), LeafGrowth((axis,)), weight=1).tolist()
    [1.0, 3.0, 1.0]
    """
    _check(x.shape, growth, lead, what)
    dtype = _wide(x.dtype)
    y = x.astype(dtype)
    # Axes with new units first: their means are then of the small array, which is at hand.
    for a, along in sorted(enumerate(growth.axes), key=lambda axis: not _has_new(axis[1])):
        if along is None:
            continue
        axis = lead + a
        source = np.asarray(along.source)
        if source.max(initial=-1) >= x.shape[axis]:
            raise GrowthError(
                f"{what}: axis {a} has {x.shape[axis]} units, but its growth copies unit "
                f"{source.max()}"
            )
        old = source >= 0
        factor = np.where(old, _power(along.weight, along.gradient, weight, gradient), 0.0)
        before = y
        y = take(y, along, axis)
        y = y * _along(factor, y.ndim, axis, dtype)
        if not old.all() and old.any():
            mean = None
            if new == "mean":
                each = np.bincount(source[old], factor[old], x.shape[axis]) / old.sum()
                mean = jnp.sum(before * _along(each, before.ndim, axis, dtype), axis, keepdims=True)
                scale = np.where(old, 0.0, 1.0)
            elif new == "fill" and along.fill == "mean":
                mean = jnp.mean(before, axis, keepdims=True)
                scale = np.where(old, 0.0, _power(along.weight, along.gradient, weight, gradient))
            if mean is not None:
                y = y + mean * _along(scale, y.ndim, axis, dtype)
    scalar = float(_power(growth.weight, growth.gradient, weight, gradient))
    return (y * jnp.asarray(scalar, dtype)).astype(x.dtype)


def fold(
    y: jax.Array,
    growth: LeafGrowth,
    old_shape: tuple[int, ...],
    *,
    weight: float = 0.0,
    gradient: float = 0.0,
    lead: int = 0,
    what: str = "leaf",
) -> jax.Array:
    """The left inverse of `expand`: fold(expand(x)) = x, by the dual weights where copies differ.

    Copies of one unit that have drifted apart are averaged with weights proportional to
    c^gradient · f^weight, for which the zero-sum noise of symmetry breaking cancels.
    """
    _check(y.shape, growth, lead, what)
    dtype = _wide(y.dtype)
    x = y.astype(dtype)
    for a, along in enumerate(growth.axes):
        if along is not None:
            axis = lead + a
            n = old_shape[axis]
            x = _sum_copies(x, axis, along.source, _dual(along, n, weight, gradient), n)
    scalar = float(_power(growth.weight, growth.gradient, weight, gradient))
    inverse = 1.0 / scalar if scalar else 0.0
    return (x * jnp.asarray(inverse, dtype)).astype(y.dtype)


def pull_back(grad: jax.Array, growth: LeafGrowth, old_shape: tuple[int, ...]) -> jax.Array:
    """The gradient of the old leaf: g = Cᵀ g′, the transpose of how the weight grows.

    The chain rule through W′ = C W + constant, so it holds for every growth, exact or not.
    """
    spec = jax.ShapeDtypeStruct(old_shape, grad.dtype)
    transpose = jax.linear_transpose(lambda w: expand(w, growth, weight=1, new="fill"), spec)
    return transpose(grad)[0]


def _sum_copies(
    y: jax.Array, axis: int, source: np.ndarray, weights: np.ndarray, n: int
) -> jax.Array:
    y = y * _along(weights, y.ndim, axis, y.dtype)
    k, new = len(source) // max(n, 1), np.arange(len(source))
    if len(source) == k * n and np.array_equal(source, new // max(k, 1)):
        # Neighbouring copies are summed where they are, also on a sharded axis.
        return jnp.sum(y.reshape([*y.shape[:axis], n, k, *y.shape[axis + 1 :]]), axis + 1)
    # Unit n collects what belongs to no old unit, and is dropped.
    index = jnp.asarray(np.where(np.asarray(source) >= 0, source, n))
    moved = jnp.moveaxis(y, axis, 0)
    total = jnp.zeros((n + 1, *moved.shape[1:]), y.dtype).at[index].add(moved)
    return jnp.moveaxis(total[:n], 0, axis)


def _dual(along: AxisGrowth, n: int, p: float, q: float) -> np.ndarray:
    """v with Σ_{j ∈ π⁻¹(i)} v_j s_j = 1 for s = c^p f^q, proportional to f^p c^q."""
    source = np.asarray(along.source)
    old = source >= 0
    slots = np.where(old, source, 0)
    s = np.where(old, _power(along.weight, along.gradient, p, q), 0.0)
    v = np.where(old, _power(along.weight, along.gradient, q, p), 0.0)
    total = np.bincount(slots, v * s, n)
    # Where the dual weights see nothing (a copy that is read with 0), least squares does.
    v = np.where(np.abs(total[slots]) > 1e-12, v, s)
    total = np.bincount(slots, v * s, n)[slots]
    return np.divide(v, total, out=np.zeros_like(v), where=np.abs(total) > 0)


def norm_factor(
    growth: LeafGrowth, shape: tuple[int, ...], kind: Literal["weight", "gradient"]
) -> float:
    """By what the Euclidean norm of a leaf of equal entries grows: √(Σ factor² / entries)."""
    value = abs(getattr(growth, kind))
    for along, n in zip(growth.axes, shape, strict=True):
        if along is not None and n:
            old = np.asarray(along.source) >= 0
            value *= math.sqrt(float(np.sum(np.square(getattr(along, kind)[old]))) / n)
    return value
