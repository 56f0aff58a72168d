"""Growth of one parameter: W′ = c · (W[π] + shift) − shift, plus random values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.maps.algebra import along
from trainkit.growth.maps.draw import normal
from trainkit.growth.maps.kernel import arithmetic, expand, fold, gather, vector
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.maps.noise import Noise, zero_sum
from trainkit.growth.plan.data import copies


def grow_leaf(
    w: jax.Array, how: LeafMap, key: jax.Array | None = None, noise: Noise | None = None
) -> jax.Array:
    """A parameter of the grown model.

    Args:
      w: the small model's parameter, of any dtype. Integers and booleans are copied unchanged.
      how: its map.
      key: the random key of this leaf, for random padding units and noise.
      noise: where noise is added, with a quarter of the leaf's root mean square.

    Returns:
      An array of the grown shape in w's dtype. Arithmetic is in float32 for narrower dtypes.
    """
    if all(a is None for a in how.axes) and how.weight == 1.0:
        return w
    axes = {d: axis for d, axis in enumerate(how.axes) if axis is not None}
    if not jnp.issubdtype(w.dtype, jnp.inexact):
        return gather(w, {d: axis.source for d, axis in axes.items()})
    wide = arithmetic(w.dtype)
    out = w.astype(wide)
    square = jnp.tensordot(out, jnp.conj(out), out.ndim)  # needs no buffer for squares
    rms = jnp.sqrt(jnp.real(square) / max(out.size, 1)).astype(wide)
    real = jnp.issubdtype(wide, jnp.floating) and out.size
    if how.shift:
        out = out + jnp.asarray(how.shift, wide)
    random = {d: axis for d, axis in axes.items() if axis.fill == "random" and axis.has_new}
    if random:
        # Where two axes have padding units, zeros and means override random values.
        assert key is not None
        positive = jnp.min(out) >= 0 if real else jnp.asarray(False)
        out = _expanded(out, {d: a for d, a in axes.items() if not a.has_new})
        for d, axis in random.items():
            out = _drawn(out, axis, d, rms, positive, key)
        for d, axis in axes.items():
            # What is read with 0 along one axis is 0, also in units that are random along another.
            # (Padding units of the other axes come later, with their weights.)
            if (d in random or not axis.has_new) and not axis.weight.all():
                out = out * vector(axis.weight != 0.0, d, out.ndim, wide)
        axes = {d: a for d, a in axes.items() if a.has_new and d not in random}
    out = _expanded(out, axes)
    if how.weight != 1.0:
        out = out * jnp.asarray(how.weight, wide)
    if noise is not None:
        assert key is not None
        out = out + zero_sum(key, out.shape, noise, wide) * _quarter(rms, how)
    if how.shift:
        out = out - jnp.asarray(how.shift, wide)
    return out.astype(w.dtype)


def _expanded(w: jax.Array, axes: dict[int, AxisMap]) -> jax.Array:
    sizes = {d: w.shape[d] for d in axes}
    return expand(w, {d: along(axis, sizes[d], weight=1, new="fill") for d, axis in axes.items()})


def _drawn(
    w: jax.Array, axis: AxisMap, d: int, rms: jax.Array, positive: jax.Array, key: jax.Array
) -> jax.Array:
    """W[π] along one axis, with random padding units of the leaf's root mean square and sign."""
    out = gather(w, {d: axis.source})
    place = [np.arange(n, dtype=np.uint32) for n in out.shape]
    drawn = rms * normal(jax.random.fold_in(key, d + 1), place, out.dtype)
    # Non-negative leaves, such as variances, stay non-negative.
    drawn = jnp.where(positive, jnp.abs(drawn).astype(drawn.dtype), drawn)
    out = jnp.where(vector(axis.source < 0, d, out.ndim), drawn, out)
    if (axis.weight != 1.0).any():
        out = out * vector(axis.weight, d, out.ndim, out.dtype)
    return out


def _quarter(rms: jax.Array, how: LeafMap) -> jax.Array:
    """The size of the noise: a quarter of the leaf's root mean square after growth."""
    sizes = [np.sqrt(np.mean(a.weight**2)) for a in how.axes if a is not None]
    return rms * jnp.asarray(0.25 * abs(how.weight) * float(np.prod(sizes)), rms.dtype)


def merged_leaf(w: jax.Array, how: LeafMap, small: tuple[int, ...]) -> jax.Array:
    """The inverse of `grow_leaf` for even growth: the mean over the copies of each unit.

    Args:
      w: the grown model's parameter, of any dtype. For integers the first copy is taken.
      how: the map of an even growth.
      small: the shape before growth.

    Returns:
      An array of shape `small` in w's dtype.
    """
    if all(a is None for a in how.axes) and how.weight == 1.0:
        return w
    axes = {d: axis for d, axis in enumerate(how.axes) if axis is not None}
    if not jnp.issubdtype(w.dtype, jnp.inexact):
        for d, axis in axes.items():
            at = np.flatnonzero(axis.source >= 0)
            w = jnp.take(w, at[np.unique(axis.source[at], return_index=True)[1]], axis=d)
        return w
    wide = arithmetic(w.dtype)
    out = (w.astype(wide) + jnp.asarray(how.shift, wide)) / jnp.asarray(how.weight, wide)
    shares = {
        d: np.divide(
            1.0,
            axis.weight * copies(axis.source, small[d]),
            out=np.zeros(len(axis.source)),
            where=axis.source >= 0,
        )
        for d, axis in axes.items()
    }
    out = fold(out, {d: (axis.source, shares[d], small[d]) for d, axis in axes.items()})
    return (out - jnp.asarray(how.shift, wide)).astype(w.dtype)
