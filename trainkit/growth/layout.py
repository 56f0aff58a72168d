"""W[π] by repeats of blocks, which stay on their shard and fuse where a gather would not."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.constants import repeated
from trainkit.growth.leaf import AxisGrowth

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


def take(w: jax.Array, axis: AxisGrowth, d: int) -> jax.Array:
    """W[π] along one axis; anything where there is none."""
    n, source = w.shape[d], axis.source
    spread = _spread(source, n)
    if spread is not None:
        config = [(0, 0, 0)] * w.ndim
        config[d] = spread
        return jax.lax.pad(w, jnp.zeros((), w.dtype), config)
    more = len(source) % max(n, 1)
    if more and np.array_equal(source, repeated(n, len(source))):
        # Two plain repeats side by side: XLA:CPU makes a gather, or a concatenation, in a buffer of
        # its own, and then copies it.
        each, rank = len(source) // n, range(w.ndim)
        ends = jax.lax.slice_in_dim(w, 0, more, axis=d), jax.lax.slice_in_dim(w, more, n, axis=d)
        parts = [_repeat(x, ((1, k),), d) for x, k in zip(ends, (each + 1, each), strict=True)]
        left, right = (
            jax.lax.pad(x, jnp.zeros((), w.dtype), [beside if e == d else (0, 0, 0) for e in rank])
            for x, beside in zip(
                parts, ((0, parts[1].shape[d], 0), (parts[0].shape[d], 0, 0)), strict=True
            )
        )
        first = jnp.arange(len(source)) < parts[0].shape[d]
        return jnp.where(first.reshape([-1 if e == d else 1 for e in rank]), left, right)
    found = None if more else repeats(source, n)
    if found is None:
        # Told that all is inside, XLA makes no mask.
        return jnp.take(w, np.where(source < 0, 0, source), axis=d, mode="clip")
    return _repeat(w, found, d)


def _repeat(w: jax.Array, found: Sequence[Repeat], d: int) -> jax.Array:
    """Blocks repeated. It stays on its shard; a gather would fetch the whole axis first."""
    for size, k in found:
        before, after, n = w.shape[:d], w.shape[d + 1 :], w.shape[d]
        blocks = w.reshape([*before, n // size, 1, size, *after])
        spread = jnp.broadcast_to(blocks, [*before, n // size, k, size, *after])
        w = spread.reshape([*before, n * k, *after])
    return w


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
