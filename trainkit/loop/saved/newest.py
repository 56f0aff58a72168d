"""The newest undamaged step; damaged ones are reported and skipped."""

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
    """The result of `read` for the newest undamaged step.

    Args:
      folder: the folder of the steps.
      read: step -> result; raises `DamagedError` for a damaged step.
      say: called with a message for each skipped step.
      steps: function that returns the candidates; default: all in the folder.
      damaged: a set to which damaged steps are added.
      once: whether to list the steps only once, although another process may add new ones.

    Raises:
      CheckpointError: there is no step.
      DamagedError: all steps are damaged.
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
                # If it no longer exists, a run that writes here has deleted it.
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
