"""Signals that ask a process to end, as a wish that the loop reads between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax

from trainkit._core.processes import alone, gathered

# Ctrl-C, a scheduler's end, a terminal that is closed, a scheduler's warning; those there are.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]


class Waited(BaseException):
    """What was waited for is not waited for any longer."""


# How often several processes ask each other, which costs each of them a millisecond or two.
ASK_EVERY = 0.2  # seconds


class Interrupts:
    """While entered, signals set `received` instead of ending the process.

    Several processes stop at one step: `agree` is asked between any two, and `wish` is what one of
    them has received as soon as all know of it.

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
        self._alone = alone()
        self._wish: str | None = None
        self._seconds, self._asked = 0.0, time.perf_counter()
        self._every = self._left = 1
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
        # What one of several processes does not wait for, the others would wait for.
        if self._awaited and self._alone and number != signal.SIGINT:
            raise Waited

    @property
    def wish(self) -> str | None:
        """The signal by which the run is to end."""
        return self.received if self._alone else self._wish

    def agree(self, seconds: float) -> float:
        """The time that the run has taken, the same in every process; settles what `wish` is.

        They ask each other several times a second, after a number of steps on which they agree
        too.
        """
        if self._alone:
            return seconds
        self._left -= 1
        if self._left > 0:
            return self._seconds
        took = time.perf_counter() - self._asked
        pace = int(self._every * ASK_EVERY / max(took, 1e-3))
        # It grows slowly: after the first steps, which compile, the others are fast.
        mine = self.received, seconds, min(max(pace, 1), 2 * self._every)
        answers = gathered(mine)
        self._asked = time.perf_counter()
        self._wish = self._wish or next((wish for wish, *_ in answers if wish), None)
        _, self._seconds, self._every = answers[0]
        self._left = self._every
        return self._seconds

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

    def ask_again(self) -> None:
        """Has them ask at the next step: steps take another time from now on, in all processes."""
        self._every = self._left = 1

    def pass_on(self) -> None:
        """Gives what was received, other than Ctrl-C, to whoever handled it before."""
        if self.wish not in (None, "SIGINT"):
            gathered(None)  # no process ends while another still writes
            if not self._alone and signal.getsignal(signal.Signals[self.wish]) is signal.SIG_DFL:
                jax.distributed.shutdown()  # or the death of the first would be an error of others
            signal.raise_signal(signal.Signals[self.wish])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
