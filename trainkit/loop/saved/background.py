"""Work in a background thread, one task after another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Background:
    """Runs one task at a time in a thread; `wait` raises its error.

    >>> done, work = [], Background()
    >>> work.start(lambda: done.append(1))
    >>> work.start(lambda: done.append(1 / 0))  # after the first
    >>> work.wait()
    Traceback (most recent call last):
    ZeroDivisionError: division by zero
    >>> work.wait(), done
    (None, [1])
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], Any]) -> None:
        """Starts a task when the previous one has ended."""
        self.wait()
        # Not a daemon thread: the program does not exit before it has ended.
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def wait(self) -> None:
        """Waits for the current task; raises its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
