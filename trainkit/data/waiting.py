"""Whether the device waits for data."""

from __future__ import annotations

import time
from typing import Any

WINDOW = 5.0  # seconds over which the share is taken: short ones are noise
SHARE = 0.3  # of a window, from which it is worth a word


class Waiting:
    """Measures how long the device had nothing to do while the next batch was prepared.

    Steps are dispatched asynchronously. If the last result is there already when a batch has been
    drawn, the device had finished before, and the time of drawing counts.
    """

    def __init__(self) -> None:
        self._result: Any = None
        self._idle = 0.0
        self._since = time.perf_counter()

    def drawn(self, seconds: float) -> None:
        """Notes that it took this long to draw a batch."""
        ready = getattr(self._result, "is_ready", None)
        if ready is not None and ready():
            self._idle += seconds

    def dispatched(self, result: Any) -> None:
        """Notes a result of the step that runs now."""
        self._result = result

    def share(self) -> float | None:
        """The idle share of a window, at its end; `None` before."""
        now = time.perf_counter()
        if now - self._since < WINDOW:
            return None
        found = self._idle / (now - self._since)
        self._idle, self._since = 0.0, now
        return found
