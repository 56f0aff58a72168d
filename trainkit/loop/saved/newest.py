"""The newest step that is whole; those that are damaged are passed over by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainkit.loop.saved.step import CheckpointError, DamagedError, steps_in

T = TypeVar("T")


def newest(
    folder: Path,
    read: Callable[[int], T],
    say: Callable[[str], None],
    *,
    steps: Callable[[], list[int]] | None = None,
    damaged: set[int] | None = None,
    once: bool = False,
) -> T:
    """What `read` makes of the newest step that is whole; `say` is told of the others.

    Args:
      folder: where steps lie.
      read: step -> result; raises `DamagedError` for one that is damaged.
      say: is given a sentence.
      steps: those to look among; by default all in the folder.
      damaged: takes those that were found to be so.
      once: whether to look among the steps once, though new ones may come meanwhile.
    """
    found = set() if damaged is None else damaged
    steps = steps or (lambda: [step for step in steps_in(folder) if step not in found])
    while True:
        now, errors = steps(), []
        for step in reversed(now):
            try:
                result = read(step)
            except DamagedError as error:
                errors.append(error)
                # One that is gone was deleted by the run that is writing here.
                if (folder / str(step)).exists():
                    found.add(step)
            else:
                for skipped in errors:
                    say(f"{skipped} The one of step {step} is used instead.")
                return result
        if not now:
            raise CheckpointError(f"There is no checkpoint in {folder}.")
        if once or set(steps()) <= set(now):
            raise DamagedError("\n".join(map(str, errors)))
