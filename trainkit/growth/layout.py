"""Index maps as repeats of blocks, which stay on their shard where a gather would not."""

from __future__ import annotations

import functools

import numpy as np

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
