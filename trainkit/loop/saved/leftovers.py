"""Removal of incomplete, deleted and damaged steps from a checkpoint folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainkit._core.processes import is_writer
from trainkit._core.run_files import remove
from trainkit.loop.saved.step import steps_in

# Steps are moved here before they are deleted, so that no step is ever half deleted.
DELETED, DAMAGED = "deleted", "damaged-"
UNFINISHED = "*.orbax-checkpoint-tmp*"


def sweep(folder: Path) -> None:
    """Removes steps that a killed run left half written or half deleted."""
    if is_writer():
        for left in folder.glob(UNFINISHED):
            remove(left)
        empty(folder)


def empty(folder: Path) -> None:
    """Deletes the steps that were moved to `DELETED`."""
    deleted = folder / DELETED
    if deleted.is_symlink():  # delete the link, never its target
        remove(deleted)
    # Deletes its content, not the folder, into which a step may be moved at the same time.
    for step in deleted.glob("*") if is_writer() else ():
        remove(step)


def put_aside(folder: Path, damaged: Iterable[int]) -> None:
    """Sweeps, and renames damaged steps, so that their names are free."""
    sweep(folder)
    for step in set(damaged) & set(steps_in(folder)):
        remove(folder / f"{DAMAGED}{step}")
        (folder / str(step)).rename(folder / f"{DAMAGED}{step}")
