"""W[π] by repeats of blocks, which stay on their shard and fuse where a gather would not."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.axes.layouts import repeated
from trainkit.growth.plan.leaf_map import AxisGrowth

Repeat = tuple[int, int]  # (size of the block that is repeated, how often)


def repeats(source: np.ndarray, n: int) -> tuple[Repeat, ...] | None:
    """The repeats that, one after another, turn arange(n) into `source`, or `None`.

    A unit repeated k times is (1, k); heads of d repeated k times are (d, k); both at once are
    two repeats; the whole axis again and again is (n, k).

    >>> repeats(np.array([0, 0, 1, 1]), 2)
    ((1, 2),)
    >>> repeats(np.array([0, 1, 0, 1, 2, 3, 2, 3]), 4)
    ((2, 2),)
    """
    return _repeats(tuple(source.tolist()), n)


@functools.lru_cache(maxsize=256)
def _repeats(key: tuple[int, ...], n: int) -> tuple[Repeat, ...] | None:
    source = np.array(key, np.int64)
    return _search(source, np.arange(n), len(source) // max(n, 1), 1 if n else 0)


def _search(source: np.ndarray, now: np.ndarray, left: int, block: int):
    """Adds repeats from the innermost block outwards until `source` is reached."""
    if len(now) == len(source):
        return () if np.array_equal(now, source) else None
    if left < 2:
        return None
    n = len(now)
    for size in range(block, n + 1):
        if n % size:
            continue
        for k in range(left, 1, -1):
            if left % k:
                continue
            longer = np.repeat(now.reshape(-1, 1, size), k, axis=1).reshape(-1)
            # A wrong repeat shows in its first block already, which later, outer ones leave alone.
            if not np.array_equal(longer[: size * k], source[: size * k]):
                continue
            rest = _search(source, longer, left // k, size * k)
            if rest is not None:
                return ((size, k), *rest)
    return None


def take(w: jax.Array, axes: Sequence[tuple[int, AxisGrowth]]) -> jax.Array:
    """W[π] along each of some (dimension, axis); anything where there is none.

    Nothing of a size between the small one and the grown one is asked for twice: XLA would keep it.
    So the small array is cut where an axis needs it, and room for new units is made last.
    """
    cut: list[tuple[int, AxisGrowth, int]] = []
    plain: list[tuple[int, AxisGrowth]] = []
    padded: list[tuple[int, AxisGrowth]] = []
    for d, axis in axes:
        block = _uneven(axis.source, w.shape[d])
        if block is not None:
            cut.append((d, axis, block))
        else:
            (padded if (axis.source < 0).any() else plain).append((d, axis))

    def pieces(w: jax.Array, cut: Sequence[tuple[int, AxisGrowth, int]]) -> jax.Array:
        if not cut:
            for d, axis in plain:
                w = _along(w, axis.source, d)
            return w
        (d, axis, block), *rest = cut
        n, m = w.shape[d], len(axis.source)
        each, more = divmod(m // block, n // block)
        middle, at = more * block, more * (each + 1) * block
        left = _repeat(pieces(jax.lax.slice_in_dim(w, 0, middle, axis=d), rest), block, each + 1, d)
        right = _repeat(pieces(jax.lax.slice_in_dim(w, middle, n, axis=d), rest), block, each, d)
        # XLA:CPU makes a concatenation in a buffer of its own, and then copies it.
        zero, spread = jnp.zeros((), w.dtype), [(0, 0, 0)] * w.ndim
        left = jax.lax.pad(left, zero, [*spread[:d], (0, m - at, 0), *spread[d + 1 :]])
        right = jax.lax.pad(right, zero, [*spread[:d], (at, 0, 0), *spread[d + 1 :]])
        first = (jnp.arange(m) < at).reshape([-1 if e == d else 1 for e in range(w.ndim)])
        return jnp.where(first, left, right)

    return _roomier(pieces(w, cut), padded)


def _roomier(w: jax.Array, axes: Sequence[tuple[int, AxisGrowth]]) -> jax.Array:
    """Room for new units: all at once where they come in between at equal distances."""
    config = [(0, 0, 0)] * w.ndim
    for d, axis in axes:
        spread = _spread(axis.source, w.shape[d])
        if spread is None:
            w = _along(w, axis.source, d)
        else:
            config[d] = spread
    return jax.lax.pad(w, jnp.zeros((), w.dtype), config) if any(map(any, config)) else w


def _uneven(source: np.ndarray, n: int) -> int | None:
    """The size of the blocks of which the first are repeated once more than the others, if any."""
    m = len(source)
    if n and m > n and m % n and (source >= 0).all():
        for block in range(math.gcd(n, m), 0, -1):
            if n % block == 0 and m % block == 0:
                first = repeated(n // block, m // block)[:, None] * block + np.arange(block)
                if np.array_equal(first.reshape(-1), source):
                    return block
    return None


def _along(w: jax.Array, source: np.ndarray, d: int) -> jax.Array:
    n = w.shape[d]
    found = None if len(source) % max(n, 1) else repeats(source, n)
    if found is None:
        # Told that all is inside, XLA makes no mask.
        return jnp.take(w, np.where(source < 0, 0, source), axis=d, mode="clip")
    for size, k in found:
        w = _repeat(w, size, k, d)
    return w


def _repeat(w: jax.Array, size: int, k: int, d: int) -> jax.Array:
    """Blocks repeated. It stays on its shard; a gather would fetch the whole axis first."""
    before, after, n = w.shape[:d], w.shape[d + 1 :], w.shape[d]
    blocks = w.reshape([*before, n // size, 1, size, *after])
    spread = jnp.broadcast_to(blocks, [*before, n // size, k, size, *after])
    return spread.reshape([*before, n * k, *after])


def _spread(source: np.ndarray, n: int) -> tuple[int, int, int] | None:
    """How to pad (before, after, between) where the old units keep their order, none is copied, and
    equally many new ones come between them."""
    at = np.flatnonzero(source >= 0)
    if not 0 < len(at) == n < len(source) or (source[at] != np.arange(n)).any():
        return None
    steps = np.unique(np.diff(at))
    if len(steps) > 1:
        return None
    return int(at[0]), int(len(source) - 1 - at[-1]), int(steps[0]) - 1 if len(steps) else 0
