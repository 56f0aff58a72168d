"""How far the comparison is: a bar in a terminal, else a line a method."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

BARS = "▁▂▃▄▅▆▇█"
WAITING = "compiling ..".ljust(len("loss 2.00 ") + 8)


class Progress:
    """What is being trained, its loss so far, and what is still to come; at most 80 columns.

    Args:
      work: the FLOPs of everything there is to do.
      methods: how many methods that is.
    """

    def __init__(self, work: float, methods: int):
        self._work, self._methods = max(work, 1.0), methods
        self._bar: Any = None
        self._losses: list[float] = []
        self._number, self._done, self._each, self._name = 0, 0.0, 0.0, ""

    def __enter__(self) -> Progress:
        if sys.stdout.isatty():
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=None),
                progress.TaskProgressColumn(),
                progress.TextColumn("{task.fields[loss]}", style="dim"),
                progress.TimeRemainingColumn(compact=True),
                refresh_per_second=4,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("compiling", total=self._work, loss=WAITING)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str, chunk: float) -> None:
        """A method begins, a chunk of which is some FLOPs."""
        self._number, self._losses, self._name = self._number + 1, [], name
        self._each = chunk
        if self._bar is None:
            self.say(f"{name} ({self._number} of {self._methods}): compiling, then training")
        self._show(WAITING)

    def __call__(self, losses: np.ndarray) -> None:
        """A chunk is done; `losses` [rates, seeds]."""
        self._done = min(self._done + self._each, self._work)
        self._losses.append(float(losses.mean(-1).min()))
        self._show(f"loss {self._losses[-1]:.2f} {sparkline(self._losses):8}")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, flush=True)

    def _show(self, loss: str) -> None:
        if self._bar is not None:
            name = f"{self._name[:26]} ({self._number} of {self._methods})"
            self._bar.update(self._task, description=name, completed=self._done, loss=loss)


def sparkline(values: list[float], width: int = 8) -> str:
    """A curve in some characters.

    >>> sparkline([4.0, 3.0, 2.0, 1.0])
    '█▆▃▁'
    """
    parts = [float(part.mean()) for part in np.array_split(values, min(width, len(values)))]
    low, high = min(parts), max(parts)
    if not np.isfinite([low, high]).all():
        return ""
    return "".join(BARS[round((x - low) / ((high - low) or 1.0) * 7)] for x in parts)
