"""Signals that ask a process to end, as a wish that the loop reads between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

# Ctrl-C, a scheduler's end, a terminal that is closed, a scheduler's warning; those there are.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]


class Waited(BaseException):
    """What was waited for is not waited for any longer."""


class Interrupts:
    """While entered, signals set `received` instead of ending the process.

    A second SIGINT raises KeyboardInterrupt as it always does. A signal that is ignored (as `nohup`
    has it) stays so. In a thread other than the main one, where Python has no signals, nothing is
    changed.

    >>> import os
    >>> with Interrupts() as interrupts:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     interrupts.received
    'SIGTERM'
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._awaited = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if self._awaited and number != signal.SIGINT:
            raise Waited

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Raises `Waited` in what is done inside, when a signal other than Ctrl-C comes.

        For what may take longer than a scheduler waits: a source of data, an evaluation.
        """
        self._awaited = True
        try:
            yield
        finally:
            self._awaited = False

    def pass_on(self) -> None:
        """Gives what was received, other than Ctrl-C, to whoever handled it before."""
        if self.received not in (None, "SIGINT"):
            signal.raise_signal(signal.Signals[self.received])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
