"""Layouts of an axis n → m: index maps int64[m], the old unit of each new unit, −1 for padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from trainkit.growth.axes.axis import Axis, find


def repeated(n: int, m: int) -> np.ndarray:
    """Copies of a unit are neighbours, so that a sharded axis needs no communication.

    If m is not a multiple of n, the first units have one copy more than the others.
    """
    each, more = divmod(m, n) if n else (0, 0)
    return np.repeat(np.arange(n), np.where(np.arange(n) < more, each + 1, each))


def tiled(n: int, m: int) -> np.ndarray:
    """The whole axis repeats."""
    return np.arange(m) % n


def strided(n: int, m: int) -> np.ndarray | None:
    """Old unit i is at index i · m/n, with padding between (this keeps a table of frequencies)."""
    if m % n:
        return None
    source = np.full(m, -1)
    source[:: m // n] = np.arange(n)
    return source


def appended(n: int, m: int) -> np.ndarray:
    """The old units first, then padding."""
    return np.concatenate([np.arange(n), np.full(m - n, -1)])


def centred(n: int, m: int) -> np.ndarray | None:
    """The old taps of a kernel in the middle, padding on both sides."""
    side = (m - n) // 2
    return None if (m - n) % 2 else np.pad(np.arange(n), side, constant_values=-1)


LAYOUTS: dict[str, Callable[[int, int], np.ndarray | None]] = {
    "repeat": repeated,
    "tile": tiled,
    "stride": strided,
    "append": appended,
    "row mean": appended,
    "centre": centred,
}
PADDED = ("stride", "append", "row mean", "centre")  # layouts with padding units


class Layouts(Mapping[int, str]):
    """An immutable choice of layouts: uid of each leaf that grows -> name of its layout."""

    def __init__(self, names: Mapping[int, str]):
        self._names = dict(names)

    def __getitem__(self, uid: int) -> str:
        return self._names[uid]

    def __iter__(self) -> Iterator[int]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __hash__(self) -> int:
        return hash(frozenset(self._names.items()))

    def but(self, names: Mapping[int, str]) -> Layouts:
        """A copy with other layouts for some leaves."""
        return Layouts({**self._names, **names})

    def source(self, leaf: Axis) -> np.ndarray:
        """The index map of a leaf: int64[big], −1 for padding."""
        leaf = find(leaf)
        source = LAYOUTS[self._names[leaf.uid]](leaf.small, leaf.big)
        assert source is not None, "a layout was chosen that these sizes do not have"
        return source
