"""What saving leaves beside the steps: half written ones, deleted ones, damaged ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainkit._core.processes import is_writer
from trainkit._core.run_files import remove
from trainkit.loop.saved.step import steps_in

# What is no longer wanted goes here before it is deleted, so that no step is ever half there.
DELETED, DAMAGED = "deleted", "damaged-"
UNFINISHED = "*.orbax-checkpoint-tmp*"


def sweep(folder: Path) -> None:
    """Removes what a killed run left half written or half deleted; for who may save here."""
    if is_writer():
        for left in folder.glob(UNFINISHED):
            remove(left)
        empty(folder)


def empty(folder: Path) -> None:
    """Deletes the steps that were moved away for that."""
    deleted = folder / DELETED
    if deleted.is_symlink():  # whoever put it there, what it leads to is not ours to delete
        remove(deleted)
    # What is in it, not the folder itself, into which a step may just be moved.
    for step in deleted.glob("*") if is_writer() else ():
        remove(step)


def put_aside(folder: Path, damaged: Iterable[int]) -> None:
    """Sweeps, and gives damaged steps another name, so that theirs are free."""
    sweep(folder)
    for step in set(damaged) & set(steps_in(folder)):
        remove(folder / f"{DAMAGED}{step}")
        (folder / str(step)).rename(folder / f"{DAMAGED}{step}")
