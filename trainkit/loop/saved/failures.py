"""Errors inside Orbax, raised once and as our own."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def attempt(work: Callable[[], T], failed: Callable[[str], Exception]) -> T:
    """The result of `work`; an error in it becomes `failed(why)`, with `why` its first line.

    >>> attempt(lambda: 1 / 0, lambda why: ValueError(f"No: {why}."))
    Traceback (most recent call last):
    ValueError: No: division by zero.
    """
    logging.getLogger("absl").addFilter(_is_not_raised)
    try:
        return work()
    except Exception as error:
        why = str(error).strip().split("\n")[0][:300] or type(error).__name__
    # Orbax leaves other arrays half read or written. Deleting them raises errors that cannot be
    # caught, so they are deleted here, silently, when their threads have ended. Only the last
    # collection is complete: where a process has many objects, each of those takes a second.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        for _ in range(5):
            gc.collect(1)
            time.sleep(0.05)
        gc.collect()
    finally:
        sys.unraisablehook = _WithoutLateReads(hook)
    raise failed(why)


class _WithoutLateReads:
    """A hook for errors that cannot be caught, which ignores one of them.

    A read that Orbax has abandoned may end much later, when the event loop that it reports to is
    closed.
    """

    hook: Callable[[Any], None]

    def __init__(self, hook: Callable[[Any], None]):
        self.hook = hook.hook if isinstance(hook, _WithoutLateReads) else hook

    def __call__(self, raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            self.hook(raised)


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Whether to log a record: not if Orbax logs a traceback, because it raises that error too."""
    return not (record.exc_info and "/orbax/" in record.pathname)
