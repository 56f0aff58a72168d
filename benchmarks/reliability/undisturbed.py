"""What nothing happens to: the ends that disturbed runs are held against, and stopped runs."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from benchmarks.reliability.children import child, end_of

# Where a run is killed that trials go on with: its second half is still to come.
STOPPED = {
    "plain": ("writing a row", 14, "before"),
    "compiled": ("writing a row", 14, "before"),
    "growing": ("saving a grown state", 7, "after"),
}


class Undisturbed:
    """Runs in a folder that has one folder a trial beside them; each is made when it is asked for.

    Args:
      base: the folder.
    """

    def __init__(self, base: Path):
        self.base = base
        self.end = functools.cache(self._end)
        self.seconds = functools.cache(self._seconds)
        self.stopped = functools.cache(self._stopped)

    def _end(self, run: str) -> dict[str, Any]:
        """What a program ends with."""
        return self._made(f"{run}-1", run)

    def _seconds(self, run: str) -> float:
        """How long it takes, once everything is compiled."""
        expected = self.end(run)
        begin = time.monotonic()
        assert self._made(f"{run}-2", run) == expected, f"{run} does not end twice the same"
        return time.monotonic() - begin

    def _stopped(self, run: str) -> Path:
        """The folder that has one which was killed."""
        out = self._folder(f"stopped-{run}")
        assert child(out, run, aim=STOPPED[run]).killed
        return out.parent

    def _made(self, name: str, run: str) -> dict[str, Any]:
        out = self._folder(name)
        done = child(out, run)
        assert done.status == 0, done.said
        return end_of(out)

    def _folder(self, name: str) -> Path:
        (self.base / name).mkdir()
        return self.base / name / "run"
