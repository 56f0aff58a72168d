"""How long a check may take."""

from __future__ import annotations

import dataclasses
import time


class OutOfTime(BaseException):
    """The time of a check is up. No law may take it for a failure of the rule that it tries."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """Asked before every law, and at every update that is not compiled.

    Attributes:
      seconds: how long the check may take; `None` for ever.
      began: when it began, as `time.perf_counter` says.
    """

    seconds: float | None = None
    began: float = dataclasses.field(default_factory=lambda: time.perf_counter())

    def check(self) -> None:
        """Raises `OutOfTime` where the time is up."""
        if self.seconds is not None and time.perf_counter() - self.began > self.seconds:
            raise OutOfTime(f"its {self.seconds:g} seconds were over (give it more: seconds=…)")
