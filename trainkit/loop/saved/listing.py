"""The list of checkpoints in a folder, and their damage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from trainkit.loop.saved.step import DamagedError, read_leaves, step_info, steps_in


@dataclasses.dataclass(frozen=True)
class Listed:
    """One checkpoint.

    Attributes:
      step: its step.
      score: its score, if it has one.
      bytes: the size of all its files.
      time: when it was saved, in seconds since 1970.
      versions: versions of Python and packages.
      leaves: name -> (shape, dtype).
      damage: a description of its damage; `None` if none was found.
    """

    step: int
    bytes: int
    score: float | None = None
    time: float | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    leaves: Mapping[str, tuple[list[int], str]] = dataclasses.field(default_factory=dict)
    damage: str | None = None


def listed(folder: Path) -> list[Listed]:
    """The checkpoints in a folder, the oldest first; does not read their arrays."""
    return [_listed(folder, step) for step in steps_in(folder)]


def verified(folder: Path, step: int) -> str | None:
    """Reads and checks every array of a step; a description of its damage, or `None`."""
    try:
        info, _ = step_info(folder, step)
        read_leaves(folder, step, info["_leaves"])
    except DamagedError as error:
        return str(error)
    return None


def _listed(folder: Path, step: int) -> Listed:
    # A run that writes here may delete files at the same time.
    sizes = [f.stat().st_size for f in (folder / str(step)).rglob("*") if f.is_file()]
    try:
        info, _ = step_info(folder, step)
    except DamagedError as error:
        return Listed(step, sum(sizes), damage=str(error))
    more = {name: info.get(f"_{name}") for name in ("score", "time")}
    return Listed(step, sum(sizes), versions=info["_versions"], leaves=info["_leaves"], **more)
