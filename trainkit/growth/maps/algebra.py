"""The calculus of one leaf: what grows by c^p · f^q, and how it is folded back.

Growth copies: x′[j, b] = c[j, b]^p · f[j, b]^q · x[π(j), π(b)]. A weight has (p, q) = (1, 0), a
gradient (0, 1), a squared gradient (0, 2). Because Σ_{j ∈ π⁻¹(i)} c_j f_j = 1, the transpose of one
of them is the inverse of the other: weights are read back with f, gradients with c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.gather import take
from trainkit.growth.plan.leaf_map import AxisGrowth, LeafGrowth

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
    axes = []
    for a, along in enumerate(growth.axes):
        if along is None:
            continue
        if int(np.max(along.source, initial=-1)) >= x.shape[lead + a]:
            raise GrowthError(
                f"{what}: axis {a} has {x.shape[lead + a]} units, but its growth copies unit "
                f"{np.max(along.source)}"
            )
        axes.append((lead + a, _columns(along, x.shape[lead + a], weight, gradient, new)))
    y = _expanded(x.astype(dtype), axes)
    scalar = float(_power(growth.weight, growth.gradient, weight, gradient))
    return (y * jnp.asarray(scalar, dtype)).astype(x.dtype)


class _Columns(NamedTuple):
    """x′ = factor · x[π], and where a unit copies none `fill` · Σ mean · x (both 0: nothing)."""

    along: AxisGrowth
    factor: np.ndarray
    mean: np.ndarray | None
    fill: np.ndarray


def _columns(along: AxisGrowth, n: int, p: float, q: float, new: New) -> _Columns:
    source = np.asarray(along.source)
    old, power = source >= 0, _power(along.weight, along.gradient, p, q)
    factor, mean, fill = np.where(old, power, 0.0), None, np.where(old, 0.0, 1.0)
    if old.any() and not old.all():
        if new == "mean":
            mean = np.bincount(source[old], factor[old], n) / old.sum()
        elif new == "fill" and along.fill == "mean":
            mean, fill = np.full(n, 1 / n), np.where(old, 0.0, power)
    return _Columns(along, factor, mean, fill)


def _expanded(x: jax.Array, axes: Sequence[tuple[int, _Columns]]) -> jax.Array:
    # Means are taken of the small array, which is at hand, and then copied along the other axes:
    # no array of a size between the two is ever asked for.
    y = take(x, [(axis, columns.along) for axis, columns in axes])
    for axis, columns in axes:
        y = y * _along(columns.factor, y.ndim, axis, y.dtype)
    for i, (axis, columns) in enumerate(axes):
        if columns.mean is not None:
            # As a contraction: what a sum over many is taken of, XLA writes out first.
            shares = jnp.asarray(columns.mean, x.dtype)
            total = jnp.expand_dims(
                jnp.tensordot(x, shares, ([axis], [0]), precision="highest"), axis
            )
            # Later axes fill their own new units; here they hold 0.
            others = [*axes[:i], *((a, c._replace(mean=None)) for a, c in axes[i + 1 :])]
            y = y + _expanded(total, others) * _along(columns.fill, y.ndim, axis, y.dtype)
    return y


def column_sums(
    along: AxisGrowth | None,
    n: int,
    *,
    gradient: float = 0.0,
    new: New = "zero",
) -> np.ndarray:
    """s with Σⱼ x′ⱼ = Σᵢ sᵢ xᵢ, for x′ = `expand(x)` along one axis of n units."""
    if along is None:
        return np.ones(n)
    columns = _columns(along, n, 0.0, gradient, new)
    old = along.source >= 0
    sums = np.bincount(along.source[old], columns.factor[old], n)
    return sums if columns.mean is None else sums + columns.mean * columns.fill.sum()


def row_sums(along: AxisGrowth | None, n: int, *, gradient: float = 0.0) -> np.ndarray:
    """s with Σᵢ xᵢ = Σⱼ sⱼ yⱼ, for x = `fold(y)` along one axis of n units."""
    return np.ones(n) if along is None else _dual(along, n, 0.0, gradient)


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
