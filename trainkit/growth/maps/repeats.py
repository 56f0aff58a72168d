"""Index maps as repeats of blocks, or as padding, where possible."""

from __future__ import annotations

import functools
import math

import numpy as np

from trainkit.growth.axes.layouts import repeated

Repeat = tuple[int, int]  # (size of the block that is repeated, how often)


def repeats(source: np.ndarray, n: int) -> tuple[Repeat, ...] | None:
    """The successive repeats that turn arange(n) into `source`, or `None`.

    A unit repeated k times is (1, k). Heads of size d repeated k times are (d, k). Both together
    are two repeats. The whole axis repeated k times is (n, k).

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


def _search(
    source: np.ndarray, now: np.ndarray, left: int, block: int
) -> tuple[Repeat, ...] | None:
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
            # A wrong repeat differs in its first block, which outer repeats do not change.
            if not np.array_equal(longer[: size * k], source[: size * k]):
                continue
            rest = _search(source, longer, left // k, size * k)
            if rest is not None:
                return ((size, k), *rest)
    return None


def uneven_block(source: np.ndarray, n: int) -> int | None:
    """The block size, if the first blocks are repeated once more than the others, or `None`."""
    m = len(source)
    if n and m > n and m % n and (source >= 0).all():
        for block in range(math.gcd(n, m), 0, -1):
            if n % block == 0 and m % block == 0:
                first = repeated(n // block, m // block)[:, None] * block + np.arange(block)
                if np.array_equal(first.reshape(-1), source):
                    return block
    return None


def padding(source: np.ndarray, n: int) -> tuple[int, int, int] | None:
    """Padding (before, after, between), if the map is the old units in order, with equal gaps."""
    at = np.flatnonzero(source >= 0)
    if not 0 < len(at) == n < len(source) or (source[at] != np.arange(n)).any():
        return None
    steps = np.unique(np.diff(at))
    if len(steps) > 1:
        return None
    return int(at[0]), int(len(source) - 1 - at[-1]), int(steps[0]) - 1 if len(steps) else 0
