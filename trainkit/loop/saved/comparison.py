"""Differences between two checkpoints, leaf by leaf."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainkit.loop.saved.leaves import data_of
from trainkit.loop.saved.step import read_leaves, step_info


@dataclasses.dataclass(frozen=True)
class Difference:
    """A leaf that differs.

    Attributes:
      leaf: its name.
      first, second: its dtype and shape in each checkpoint; "nothing" if it is missing.
      largest: max |a − b|, if the shapes are equal.
      relative: ‖a − b‖ / ‖a‖, if the shapes are equal.
    """

    leaf: str
    first: str
    second: str
    largest: float | None = None
    relative: float | None = None


def compared(
    first: tuple[Path, int], second: tuple[Path, int], wanted: Callable[[str], bool]
) -> tuple[list[str], list[Difference]]:
    """The selected leaves that are bitwise equal, and the differences of the others.

    Raises:
      DamagedError: one of the checkpoints is damaged.
    """
    sides = [step_info(*place) for place in (first, second)]
    (one, digests), (other, others) = sides
    a, b = one["_leaves"], other["_leaves"]
    names = [name for name in dict.fromkeys([*a, *b]) if wanted(name)]
    # The shards may differ between the two: only equal digests are conclusive.
    same = [
        name for name in names
        if name in a and a[name] == b.get(name) and digests.get(name) == others.get(name)
    ]  # fmt: skip
    rest = [name for name in names if name not in same]
    numbers = [name for name in rest if name in a and name in b and a[name][0] == b[name][0]]
    x, y = (read_leaves(*place, numbers)[0] for place in (first, second))
    found = []
    for name in rest:
        here, there = (f"{s[name][1]}{s[name][0]}" if name in s else "nothing" for s in (a, b))
        if name not in numbers:
            found.append(Difference(name, here, there))
        elif _bitwise(x[name], y[name]):
            same.append(name)
        else:
            found.append(Difference(name, here, there, *_distance(x[name], y[name])))
    return same, found


def _bitwise(a: Any, b: Any) -> bool:
    a, b = np.asarray(data_of(a)), np.asarray(data_of(b))
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _distance(a: Any, b: Any) -> tuple[float, float]:
    x, y = (np.asarray(data_of(leaf)) for leaf in (a, b))
    wide = np.complex128 if np.iscomplexobj(x) or np.iscomplexobj(y) else np.float64
    x, y = x.astype(wide), y.astype(wide)
    size, apart = float(np.linalg.norm(x)), float(np.linalg.norm(x - y))
    largest = float(np.max(np.abs(x - y), initial=0.0))
    return largest, apart / size if size else float("inf") if apart else 0.0
