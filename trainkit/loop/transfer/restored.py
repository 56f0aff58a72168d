"""The result of `restore`: the tree, and lists of the leaves that were taken and that were not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Restored:
    """The result of `trainkit.checkpoint.restore`; as text, it lists what was taken or not.

    Attributes:
      state: the tree.
      info: the mapping that was saved with the state.
      folder, step: the folder and step of the checkpoint.
      taken: leaf of the tree -> leaf of the checkpoint.
      left: the leaves of the checkpoint that were not taken.
      kept: the leaves of the tree with the values of `into`, or of a new `TrainState`.
      begun: the leaves of the optimizer state from `tx.init(restored parameters)`.
      cast: leaf of the tree -> (dtype in the checkpoint, dtype now).
      grown: leaf of the tree -> (shape in the checkpoint or `None`, shape now).
    """

    state: PyTree
    info: Mapping[str, Any]
    folder: Path
    step: int
    taken: Mapping[str, str]
    left: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    cast: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    grown: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        ours, theirs = [*self.taken, *self.kept, *self.begun], [*self.taken.values(), *self.left]
        moved = {new: old for new, old in self.taken.items() if new != old}
        lines = [
            f"Restored step {self.step:,} of {self.folder}: {len(self.taken)} of "
            f"{len(set(theirs))} leaves taken."
        ]
        parts = {
            "under another name": [f"{old} → {new}" for new, old in moved.items()],
            "cast": [f"{name} {a} → {b}" for name, (a, b) in self.cast.items()],
            "grown": [f"{n} {'new' if a is None else a} → {b}" for n, (a, b) in self.grown.items()],
            "not taken": grouped(self.left, theirs),
            "not from the checkpoint": grouped(self.kept, ours),
            "initialised by tx": grouped(self.begun, ours),
        }
        for title, items in parts.items():
            if items:
                lines += [f"  {title}:", *(f"    {item}" for item in items)]
        return "\n".join(lines)


def grouped(names: Iterable[str], among: Iterable[str]) -> list[str]:
    """The names, with a subtree instead of its leaves if it is complete.

    >>> grouped(["a/b/x", "a/b/y", "a/c"], ["a/b/x", "a/b/y", "a/c", "a/d"])
    ['a/b (2 leaves)', 'a/c']
    """
    wanted = list(dict.fromkeys(names))
    others = set(among) - set(wanted)
    found: dict[str, list[str]] = {}
    for name in wanted:
        parts = name.split("/")
        tops = ["/".join(parts[:i]) for i in range(1, len(parts) + 1)]
        whole = (t for t in tops if not any(o == t or o.startswith(f"{t}/") for o in others))
        found.setdefault(next(whole, name), []).append(name)
    return [f"{top} ({len(n)} leaves)" if len(n) > 1 else n[0] for top, n in found.items()]
