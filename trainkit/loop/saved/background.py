"""Work in a thread of its own, one piece after another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Background:
    """Does one piece of work at a time; an error in it is raised where it is waited for.

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
        """Begins, when what was begun before has ended."""
        self.wait()
        # Not a daemon: the end of a program does not cut it off in the middle.
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()

    def wait(self) -> None:
        """Returns when nothing is under way; raises what went wrong, once."""
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
