"""The algebra of leaf maps: values that grow by c^p · f^q, and the inverse operation.

x′[j, b] = c[j, b]^p · f[j, b]^q · x[π(j), π(b)], with the factors c on weights and f on gradients.
A weight has (p, q) = (1, 0), a gradient (0, 1), a squared gradient (0, 2). Because Σ_{j ∈ π⁻¹(i)}
c_j f_j = 1, summing with the weights f inverts c, and summing with c inverts f.
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
    """The shape after growth; the first `lead` axes belong to the slot, not to the parameter."""
    new = list(shape)
    for d, axis in enumerate(how.axes):
        if axis is not None:
            new[lead + d] = len(axis.source)
    return tuple(new)


def _check(shape: tuple[int, ...], how: LeafMap, lead: int, what: str) -> None:
    if len(shape) != lead + len(how.axes):
        raise GrowthError(f"{what} has shape {shape}, but its map has {len(how.axes)} axes")


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
      x: the old values, of any dtype; arithmetic is in float32 for narrower ones.
      how: the map of the leaf.
      weight: p, the power of the weight factor c.
      gradient: q, the power of the gradient factor f.
      new: the entries of padding units: "zero", the "mean" over the old entries of the same row or
        column, or "fill", as the map says (random values count as 0, so that the result is linear).
      lead: the number of leading axes of x that the parameter does not have.
      what: the name of x in messages.

    Returns:
      An array of the grown shape.

    Raises:
      GrowthError: x does not have the shape that the map expects.

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
                f"{what}: axis {d} has {n} units, but its map copies unit {np.max(axis.source)}"
            )
        axes[lead + d] = along(axis, n, weight=weight, gradient=gradient, new=new)
    y = kernel.expand(x.astype(dtype), axes)
    scalar = float(_power(how.weight, how.gradient, weight, gradient))
    return (y * jnp.asarray(scalar, dtype)).astype(x.dtype)


def along(
    axis: AxisMap, n: int, *, weight: float = 0.0, gradient: float = 0.0, new: New = "zero"
) -> Along:
    """The argument of `kernel.expand` for one axis, with the factors c^weight · f^gradient."""
    old, power = axis.source >= 0, _power(axis.weight, axis.gradient, weight, gradient)
    factor = np.where(old, power, 0.0)
    if old.any() and not old.all():
        if new == "mean":
            mean = np.bincount(axis.source[old], factor[old], n) / old.sum()
            return Along(axis.source, factor, mean, np.where(old, 0.0, 1.0))
        if new == "fill" and axis.fill == "mean":
            units = n // math.prod(axis.around)
            mean = np.full(units, 1 / units)
            return Along(axis.source, factor, mean, np.where(old, 0.0, power), axis.around)
    return Along(axis.source, factor)


def column_sums(
    axis: AxisMap | None, n: int, *, gradient: float = 0.0, new: New = "zero"
) -> np.ndarray:
    """float64[n]: s with Σⱼ x′ⱼ = Σᵢ sᵢ xᵢ, for x′ = `expand(x)` along one axis of n units."""
    if axis is None:
        return np.ones(n)
    found, old = along(axis, n, gradient=gradient, new=new), axis.source >= 0
    sums = np.bincount(axis.source[old], found.factor[old], n)
    if found.mean is None or found.fill is None:
        return sums
    outer, inner = found.around
    filled = found.fill.reshape(outer, -1, inner).sum(1, keepdims=True)
    return sums + (found.mean[:, None] * filled).reshape(n)


def row_sums(axis: AxisMap | None, n: int, *, gradient: float = 0.0) -> np.ndarray:
    """float64[n′]: s with Σᵢ xᵢ = Σⱼ sⱼ yⱼ, for x = `fold(y)` along one axis of n units."""
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
    """The left inverse of `expand`: fold(expand(x)) = x.

    Different copies of a unit are averaged with weights proportional to c^gradient · f^weight, for
    which zero-sum noise cancels. Arguments and errors are those of `expand`; `old_shape` is the
    shape of the result.
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
    """The gradient of the old leaf: g = Cᵀ g′, where W′ = C W + constant is the growth.

    This is the chain rule, so it holds for every growth, exact or not.
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
    # Where the dual weights vanish (a copy whose outgoing weight is 0), use least squares.
    v = np.where(np.abs(total[slots]) > 1e-12, v, s)
    total = np.bincount(slots, v * s, n)[slots]
    return np.divide(v, total, out=np.zeros_like(v), where=np.abs(total) > 0)


def norm_factor(how: LeafMap, shape: tuple[int, ...], kind: Literal["weight", "gradient"]) -> float:
    """The factor on the Euclidean norm of a leaf with equal entries: √(Σ factor² / entries)."""
    value = abs(getattr(how, kind))
    for along, n in zip(how.axes, shape, strict=True):
        if along is not None and n:
            old = np.asarray(along.source) >= 0
            value *= math.sqrt(float(np.sum(np.square(getattr(along, kind)[old]))) / n)
    return value
