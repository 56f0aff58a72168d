"""The array kernel: copy units along axes, with a factor for each, and the adjoint.

Along one axis of n units, with π: [n′] → [n] ∪ {∅},

    gather   x′[j] = x[π(j)]
    expand   x′[j] = factor[j] · x[π(j)], and for π(j) = ∅ fill[j] · Σᵢ mean[i] · x[i]
    fold     x[i] = Σ_{j: π(j) = i} weight[j] · x′[j]

where ∅ stands for padding units. (If the axis is one of three that are merged, `around` the middle
one, the sum is over that one alone.) Several axes are independent: the operation is the product of
those along each axis. `fold` is the adjoint of `expand` if weight = factor and nothing is filled,
and its left inverse if Σ_{j: π(j) = i} weight[j] · factor[j] = 1.

All three are linear and traceable. Where π allows it they are repeats and sums of blocks, which
stay on their shard and fuse; a gather or scatter would fetch the whole axis. No array of
intermediate size is used twice, because XLA would keep it in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.maps.repeats import padding, repeats, uneven_block

Axes = Mapping[int, np.ndarray]


class Along(NamedTuple):
    """`expand` along one axis of n units; host arrays.

    Attributes:
      source: int[n′], π(j), and −1 for ∅.
      factor: float64[n′]; ignored at ∅.
      mean: float64[n], the weights of the mean that ∅ units hold; `None`: they hold 0. Of a factor
        of the axis, as many as that has units.
      fill: float64[n′], the factor on that mean; 0 except at ∅.
      around: the sizes of what stands before and behind that factor.
    """

    source: np.ndarray
    factor: np.ndarray
    mean: np.ndarray | None = None
    fill: np.ndarray | None = None
    around: tuple[int, int] = (1, 1)


def arithmetic(dtype: Any) -> Any:
    """The dtype to compute in: float32 for narrower ones, so that factors do not round twice."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return jnp.dtype(dtype)
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def vector(x: np.ndarray, axis: int, rank: int, dtype: Any = None) -> jax.Array:
    """A host vector as an array that broadcasts along one axis of `rank`."""
    return jnp.asarray(x, dtype).reshape([-1 if d == axis else 1 for d in range(rank)])


def expand(x: jax.Array, axes: Mapping[int, Along]) -> jax.Array:
    """x′ of the grown shape, in x's dtype.

    Args:
      x: any number of axes, floating or complex.
      axes: axis of x -> how it is expanded. Where ∅ units of two axes meet, 0 wins over a mean.
    """
    y = gather(x, {d: along.source for d, along in axes.items()})
    for d, along in axes.items():
        new = along.source < 0
        if new.any():
            y = jnp.where(vector(new, d, y.ndim), jnp.zeros((), y.dtype), y)
        if (along.factor[~new] != 1.0).any():
            # Factors of one axis at a time: their outer product would be as large as the leaf.
            y = y * vector(np.where(new, 0.0, along.factor), d, y.ndim, y.dtype)
    before: dict[int, Along] = {}
    for d, along in axes.items():
        if along.mean is not None and along.fill is not None:
            # A contraction of the small array: XLA would materialise the operand of a plain sum.
            shares = jnp.asarray(along.mean, x.dtype)
            outer, inner = along.around
            parts = x.reshape([*x.shape[:d], outer, len(shares), inner, *x.shape[d + 1 :]])
            mean = jnp.tensordot(parts, shares, ([d + 1], [0]), precision="highest")
            mean = jnp.expand_dims(mean, d + 1)
            if along.around != (1, 1):
                mean = jnp.repeat(mean, len(along.source) // (outer * inner), d + 1)
            mean = mean.reshape([*x.shape[:d], mean.shape[d] * mean.shape[d + 1] * inner,
                                 *x.shape[d + 1 :]])  # fmt: skip
            # Later axes fill their own new units; here they hold 0.
            later = {e: a._replace(mean=None) for e, a in axes.items() if e not in before}
            others = {**before, **later}
            del others[d]
            filled = expand(mean, others)
            y = y + filled * vector(along.fill, d, y.ndim, y.dtype)
        before[d] = along
    return y


def fold(y: jax.Array, axes: Mapping[int, tuple[np.ndarray, np.ndarray, int]]) -> jax.Array:
    """x of the small shape, in y's dtype.

    Args:
      y: any number of axes.
      axes: axis of y -> π (int[n′]), weights (float64[n′], unused at ∅) and n.
    """
    for d, (source, weight, n) in axes.items():
        y = y * vector(weight, d, y.ndim, y.dtype)
        k, new = len(source) // max(n, 1), np.arange(len(source))
        if len(source) == k * n and np.array_equal(source, new // max(k, 1)):
            # Neighbouring copies are summed in place, also on a sharded axis.
            y = jnp.sum(y.reshape([*y.shape[:d], n, k, *y.shape[d + 1 :]]), d + 1)
            continue
        # Index n collects the padding units, and is dropped.
        index = jnp.asarray(np.where(source >= 0, source, n))
        moved = jnp.moveaxis(y, d, 0)
        total = jnp.zeros((n + 1, *moved.shape[1:]), y.dtype).at[index].add(moved)
        y = jnp.moveaxis(total[:n], 0, d)
    return y


def gather(x: jax.Array, axes: Axes) -> jax.Array:
    """x[π] along some axes, of any dtype. Values at ∅ are unspecified.

    Args:
      x: any number of axes.
      axes: axis of x -> π (int[n′]).
    """
    # The small array is divided first, and padding is added last, so that arrays stay small.
    cut: list[tuple[int, np.ndarray, int]] = []
    plain: dict[int, np.ndarray] = {}
    roomy: dict[int, np.ndarray] = {}
    for d, source in axes.items():
        block = uneven_block(source, x.shape[d])
        if block is not None:
            cut.append((d, source, block))
        else:
            (roomy if (source < 0).any() else plain)[d] = source
    x = _in_pieces(x, cut, plain)
    config = [(0, 0, 0)] * x.ndim
    for d, source in roomy.items():
        spread = padding(source, x.shape[d])
        if spread is None:
            x = _gather(x, source, d)
        else:
            config[d] = spread
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config) if any(map(any, config)) else x


def _in_pieces(x: jax.Array, cut: Sequence[tuple[int, np.ndarray, int]], plain: Axes) -> jax.Array:
    """x[π] where the first blocks of some axes are repeated once more than the others."""
    if not cut:
        for d, source in plain.items():
            x = _gather(x, source, d)
        return x
    (d, source, block), *rest = cut
    n, m = x.shape[d], len(source)
    each, more = divmod(m // block, n // block)
    middle, at = more * block, more * (each + 1) * block
    left, right = (
        _repeat(_in_pieces(jax.lax.slice_in_dim(x, *span, axis=d), rest, plain), block, k, d)
        for span, k in (((0, middle), each + 1), ((middle, n), each))
    )
    # XLA:CPU would make a concatenation in an additional buffer and copy it.
    zero, spread = jnp.zeros((), x.dtype), [(0, 0, 0)] * x.ndim
    left = jax.lax.pad(left, zero, [*spread[:d], (0, m - at, 0), *spread[d + 1 :]])
    right = jax.lax.pad(right, zero, [*spread[:d], (at, 0, 0), *spread[d + 1 :]])
    return jnp.where(vector(np.arange(m) < at, d, x.ndim), left, right)


def _gather(x: jax.Array, source: np.ndarray, d: int) -> jax.Array:
    n = x.shape[d]
    found = None if len(source) % max(n, 1) else repeats(source, n)
    if found is None:
        # With mode="clip" XLA needs no mask for out-of-bounds indices.
        return jnp.take(x, np.where(source < 0, 0, source), axis=d, mode="clip")
    for size, k in found:
        x = _repeat(x, size, k, d)
    return x


def _repeat(x: jax.Array, size: int, k: int, d: int) -> jax.Array:
    """Repeats each block of `size` k times, on its shard; a gather would fetch the whole axis."""
    before, after, n = x.shape[:d], x.shape[d + 1 :], x.shape[d]
    blocks = x.reshape([*before, n // size, 1, size, *after])
    spread = jnp.broadcast_to(blocks, [*before, n // size, k, size, *after])
    return spread.reshape([*before, n * k, *after])
