"""What checkpoints there are in a folder, and which of them are whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from trainkit.loop.saved.step import DamagedError, read_leaves, step_info, steps_in


@dataclasses.dataclass(frozen=True)
class Listed:
    """One checkpoint.

    Attributes:
      step: its number.
      score: what it was kept for, if for that.
      bytes: of all its files.
      time: when it was saved, in seconds since 1970.
      versions: of Python and packages.
      leaves: name -> (shape, dtype).
      damage: what is wrong with it, in words; `None` where nothing was found to be.
    """

    step: int
    bytes: int
    score: float | None = None
    time: float | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    leaves: Mapping[str, tuple[list[int], str]] = dataclasses.field(default_factory=dict)
    damage: str | None = None


def listed(folder: Path) -> list[Listed]:
    """The checkpoints in a folder, the oldest first; only what is written beside arrays is read."""
    return [_listed(folder, step) for step in steps_in(folder)]


def verified(folder: Path, step: int) -> str | None:
    """Reads every array of a step and its digest; what is not what was written, in words."""
    try:
        info, _ = step_info(folder, step)
        read_leaves(folder, step, info["_leaves"])
    except DamagedError as error:
        return str(error)
    return None


def _listed(folder: Path, step: int) -> Listed:
    # A run that is writing here may delete files meanwhile.
    sizes = [f.stat().st_size for f in (folder / str(step)).rglob("*") if f.is_file()]
    try:
        info, _ = step_info(folder, step)
    except DamagedError as error:
        return Listed(step, sum(sizes), damage=str(error))
    more = {name: info.get(f"_{name}") for name in ("score", "time")}
    return Listed(step, sum(sizes), versions=info["_versions"], leaves=info["_leaves"], **more)
