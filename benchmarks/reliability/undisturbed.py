"""Undisturbed runs, whose results disturbed runs must reproduce, and runs stopped half way."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.reliability.children import child, end_of

# Where to kill a run that trials resume: half way.
STOPPED = {
    "plain": ("writing a row", 14, "before"),
    "compiled": ("writing a row", 14, "before"),
    "growing": ("saving a grown state", 7, "after"),
}

T = TypeVar("T")


class Undisturbed:
    """Undisturbed and stopped runs, each executed when it is first needed.

    Args:
      base: the folder of the runs; the folders of the trials are beside it.
    """

    def __init__(self, base: Path):
        self.base = base
        lock = threading.RLock()
        self.end = _once(self._end, lock)
        self.seconds = _once(self._seconds, lock)
        self.stopped = _once(self._stopped, lock)

    def _end(self, run: str) -> dict[str, Any]:
        """The result of a program."""
        return self._made(f"{run}-1", run)

    def _seconds(self, run: str) -> float:
        """The seconds that a program takes when everything is compiled."""
        expected = self.end(run)
        begin = time.monotonic()
        assert self._made(f"{run}-2", run) == expected, f"{run} is not deterministic"
        return time.monotonic() - begin

    def _stopped(self, run: str) -> Path:
        """The folder of a killed run of a program."""
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


def _once(work: Callable[[str], T], lock: Any) -> Callable[[str], T]:
    cached = functools.cache(work)

    def locked(run: str) -> T:
        with lock:
            return cached(run)

    return locked
