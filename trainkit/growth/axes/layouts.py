"""Layouts of an axis n → m: index maps int64[m], the old unit of each new unit, −1 for padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

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
    if not n or m % n:
        return None
    source = np.full(m, -1)
    source[:: m // n] = np.arange(n)
    return source


def strided_end(n: int, m: int) -> np.ndarray | None:
    """Old unit i is at index (i + 1) · m/n − 1, with padding between (this keeps ALiBi slopes)."""
    if not n or m % n:
        return None
    source = np.full(m, -1)
    source[m // n - 1 :: m // n] = np.arange(n)
    return source


def appended(n: int, m: int) -> np.ndarray:
    """The old units first, then padding."""
    return np.concatenate([np.arange(n), np.full(m - n, -1)])


def centred(n: int, m: int) -> np.ndarray | None:
    """The old taps of a kernel in the middle, padding on both sides."""
    side = (m - n) // 2
    return None if (m - n) % 2 else np.pad(np.arange(n), side, constant_values=-1)


def _of_units(copies: Callable[[int, int], np.ndarray]) -> Callable[[int, int], np.ndarray | None]:
    """The layout of copies, which needs old units."""
    return lambda n, m: copies(n, m) if n or not m else None


LAYOUTS: dict[str, Callable[[int, int], np.ndarray | None]] = {
    "repeat": _of_units(repeated),
    "tile": _of_units(tiled),
    "stride": strided,
    "stride end": strided_end,
    "append": appended,
    "row mean": appended,
    "centre": centred,
}
PADDED = ("stride", "stride end", "append", "row mean", "centre")  # layouts with padding units
COPIES = "copies"
# A name in `LAYOUTS`; or the new index of each old unit, with padding everywhere else; or
# ("copies", 3, 1, 2): how many neighbouring copies each old unit has.
Layout = str | tuple[Any, ...]


def index_map(layout: Layout, n: int, m: int) -> np.ndarray | None:
    """The index map of a layout for an axis n → m; `None` if these sizes do not have it."""
    if isinstance(layout, str):
        return LAYOUTS[layout](n, m)
    if layout[0] == COPIES:
        return np.repeat(np.arange(n), layout[1:])
    source = np.full(m, -1)
    source[list(layout)] = np.arange(n)
    return source


def known_map(layout: Layout, n: int, m: int) -> np.ndarray:
    """The index map of a layout that these sizes have."""
    source = index_map(layout, n, m)
    assert source is not None, "a layout was chosen that these sizes do not have"
    return source


def padded(layout: Layout) -> bool:
    """Whether a layout has padding units."""
    return layout in PADDED if isinstance(layout, str) else layout[0] != COPIES


def uneven(layout: Layout, n: int, m: int) -> bool:
    """Whether old units have different numbers of copies."""
    if padded(layout):
        return False
    return m % n > 0 if isinstance(layout, str) else len(set(layout[1:])) > 1


def worded(layout: Layout) -> str:
    """A layout in words.

    >>> worded("repeat"), worded((0, 2, 3)), worded(("copies", 3, 1))
    ('repeat', 'places 0 2 3', 'copies 3 1')
    """
    if isinstance(layout, str):
        return layout
    kind, numbers = ("copies", layout[1:]) if layout[0] == COPIES else ("places", layout)
    shown = [str(number) for number in numbers]
    return f"{kind} " + " ".join(shown if len(shown) < 9 else [*shown[:6], "…", shown[-1]])


class Layouts(Mapping[int, Layout]):
    """An immutable choice of layouts: uid of each leaf that grows -> its layout."""

    def __init__(self, names: Mapping[int, Layout]):
        self._names = dict(names)

    def __getitem__(self, uid: int) -> Layout:
        return self._names[uid]

    def __iter__(self) -> Iterator[int]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __hash__(self) -> int:
        return hash(frozenset(self._names.items()))

    def but(self, names: Mapping[int, Layout]) -> Layouts:
        """A copy with other layouts for some leaves."""
        return Layouts({**self._names, **names})

    def source(self, leaf: Axis) -> np.ndarray:
        """The index map of a leaf: int64[big], −1 for padding."""
        leaf = find(leaf)
        return known_map(self._names[leaf.uid], leaf.small, leaf.big)
