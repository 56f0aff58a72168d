"""What goes wrong inside Orbax, said once and in our own words."""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def attempt(work: Callable[[], T], failed: Callable[[str], Exception]) -> T:
    """What `work` gives; an error in it becomes `failed(why)`, with `why` its first line.

    >>> attempt(lambda: 1 / 0, lambda why: ValueError(f"No: {why}."))
    Traceback (most recent call last):
    ValueError: No: division by zero.
    """
    logging.getLogger("absl").addFilter(_is_said_here_alone)
    try:
        return work()
    except Exception as error:
        why = str(error).strip().split("\n")[0][:300] or type(error).__name__
    # Orbax leaves the other arrays half read or written, and dropping them raises where nobody can
    # catch it: it is done here, unheard, as soon as the threads that work on them let go.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        for _ in range(5):
            gc.collect()
            time.sleep(0.05)
    finally:
        sys.unraisablehook = _WithoutLateReads(hook)
    raise failed(why)


class _WithoutLateReads:
    """A hook for errors nobody can catch, which passes on all but one.

    A read that Orbax has given up ends later, on a busy disk much later, and then finds the event
    loop closed that it was to report to.
    """

    hook: Callable[[Any], None]

    def __init__(self, hook: Callable[[Any], None]):
        self.hook = hook.hook if isinstance(hook, _WithoutLateReads) else hook

    def __call__(self, raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            self.hook(raised)


def _is_said_here_alone(record: logging.LogRecord) -> bool:
    """Whether to log it: not what Orbax logs with a traceback, for that it raises as well."""
    return not (record.exc_info and "/orbax/" in record.pathname)
