"""The algebra of leaf maps: what grows by c^p · f^q, and how it is folded back.

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
from trainkit.growth.maps import kernel
from trainkit.growth.maps.kernel import Along
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap

New = Literal["zero", "mean", "fill"]


def grown_shape(shape: tuple[int, ...], how: LeafMap, lead: int = 0) -> tuple[int, ...]:
    """The shape after growth; `lead` axes in front belong to the slot, not to the parameter."""
    new = list(shape)
    for d, axis in enumerate(how.axes):
        if axis is not None:
            new[lead + d] = len(axis.source)
    return tuple(new)


def _check(shape: tuple[int, ...], how: LeafMap, lead: int, what: str) -> None:
    if len(shape) != lead + len(how.axes):
        raise GrowthError(
            f"{what} has shape {shape}, but its growth describes {len(how.axes)} axes"
        )


def _power(weight: np.ndarray | float, gradient: np.ndarray | float, p: float, q: float):
    # NumPy has 0**0 = 1, which is what an exponent of 0 means here.
    return np.power(np.asarray(weight, float), p) * np.power(np.asarray(gradient, float), q)


def expand(
    x: jax.Array,
    how: LeafMap,
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
      how: how the leaf grows.
      weight: p, the power of the weight factor c.
      gradient: q, the power of the gradient factor f.
      new: what entries of new (∅) units hold: 0, the mean over the old entries of the same row or
        column, or what the map itself fills in ("fill"; random values count as 0, so that the map
        stays linear).
      lead: axes in front of x that are not the parameter's.
      what: how errors call x.

    >>> import numpy as np
    >>> axis = AxisMap(np.array([0, 1, 0]), np.array([.5, 1, .5]), np.ones(3))
    >>> expand(jnp.array([2.0, 3.0]), LeafMap((axis,)), weight=1).tolist()
    [1.0, 3.0, 1.0]
    """
    _check(x.shape, how, lead, what)
    dtype = kernel.arithmetic(x.dtype)
    axes = {}
    for d, axis in enumerate(how.axes):
        if axis is None:
            continue
        n = x.shape[lead + d]
        if int(np.max(axis.source, initial=-1)) >= n:
            raise GrowthError(
                f"{what}: axis {d} has {n} units, but its growth copies unit {np.max(axis.source)}"
            )
        axes[lead + d] = along(axis, n, weight=weight, gradient=gradient, new=new)
    y = kernel.expand(x.astype(dtype), axes)
    scalar = float(_power(how.weight, how.gradient, weight, gradient))
    return (y * jnp.asarray(scalar, dtype)).astype(x.dtype)


def along(
    axis: AxisMap, n: int, *, weight: float = 0.0, gradient: float = 0.0, new: New = "zero"
) -> Along:
    """One axis of n units, with the factors c^weight · f^gradient, as the kernel takes it."""
    old, power = axis.source >= 0, _power(axis.weight, axis.gradient, weight, gradient)
    factor = np.where(old, power, 0.0)
    if old.any() and not old.all():
        if new == "mean":
            mean = np.bincount(axis.source[old], factor[old], n) / old.sum()
            return Along(axis.source, factor, mean, np.where(old, 0.0, 1.0))
        if new == "fill" and axis.fill == "mean":
            return Along(axis.source, factor, np.full(n, 1 / n), np.where(old, 0.0, power))
    return Along(axis.source, factor)


def column_sums(
    axis: AxisMap | None, n: int, *, gradient: float = 0.0, new: New = "zero"
) -> np.ndarray:
    """s with Σⱼ x′ⱼ = Σᵢ sᵢ xᵢ, for x′ = `expand(x)` along one axis of n units."""
    if axis is None:
        return np.ones(n)
    found, old = along(axis, n, gradient=gradient, new=new), axis.source >= 0
    sums = np.bincount(axis.source[old], found.factor[old], n)
    if found.mean is None or found.fill is None:
        return sums
    return sums + found.mean * np.sum(found.fill)


def row_sums(axis: AxisMap | None, n: int, *, gradient: float = 0.0) -> np.ndarray:
    """s with Σᵢ xᵢ = Σⱼ sⱼ yⱼ, for x = `fold(y)` along one axis of n units."""
    return np.ones(n) if axis is None else _dual(axis, n, 0.0, gradient)


def fold(
    y: jax.Array,
    how: LeafMap,
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
    _check(y.shape, how, lead, what)
    dtype = kernel.arithmetic(y.dtype)
    axes = {}
    for d, axis in enumerate(how.axes):
        if axis is not None:
            n = old_shape[lead + d]
            axes[lead + d] = (axis.source, _dual(axis, n, weight, gradient), n)
    x = kernel.fold(y.astype(dtype), axes)
    scalar = float(_power(how.weight, how.gradient, weight, gradient))
    inverse = 1.0 / scalar if scalar else 0.0
    return (x * jnp.asarray(inverse, dtype)).astype(y.dtype)


def pull_back(grad: jax.Array, how: LeafMap, old_shape: tuple[int, ...]) -> jax.Array:
    """The gradient of the old leaf: g = Cᵀ g′, the transpose of how the weight grows.

    The chain rule through W′ = C W + constant, so it holds for every growth, exact or not.
    """
    spec = jax.ShapeDtypeStruct(old_shape, grad.dtype)
    transpose = jax.linear_transpose(lambda w: expand(w, how, weight=1, new="fill"), spec)
    return transpose(grad)[0]


def _dual(axis: AxisMap, n: int, p: float, q: float) -> np.ndarray:
    """v with Σ_{j ∈ π⁻¹(i)} v_j s_j = 1 for s = c^p f^q, proportional to f^p c^q."""
    source = np.asarray(axis.source)
    old = source >= 0
    slots = np.where(old, source, 0)
    s = np.where(old, _power(axis.weight, axis.gradient, p, q), 0.0)
    v = np.where(old, _power(axis.weight, axis.gradient, q, p), 0.0)
    total = np.bincount(slots, v * s, n)
    # Where the dual weights see nothing (a copy that is read with 0), least squares does.
    v = np.where(np.abs(total[slots]) > 1e-12, v, s)
    total = np.bincount(slots, v * s, n)[slots]
    return np.divide(v, total, out=np.zeros_like(v), where=np.abs(total) > 0)


def norm_factor(how: LeafMap, shape: tuple[int, ...], kind: Literal["weight", "gradient"]) -> float:
    """By what the Euclidean norm of a leaf of equal entries grows: √(Σ factor² / entries)."""
    value = abs(getattr(how, kind))
    for along, n in zip(how.axes, shape, strict=True):
        if along is not None and n:
            old = np.asarray(along.source) >= 0
            value *= math.sqrt(float(np.sum(np.square(getattr(along, kind)[old]))) / n)
    return value
