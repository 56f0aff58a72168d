"""The time limit of a check."""

from __future__ import annotations

import dataclasses
import time


class OutOfTime(BaseException):
    """The time limit is reached. A `BaseException`, so that no law reports it as a failure."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """Checked before every law, and at every update that is not compiled.

    Attributes:
      seconds: the time limit; `None` for no limit.
      began: the start, by `time.perf_counter`.
    """

    seconds: float | None = None
    began: float = dataclasses.field(default_factory=lambda: time.perf_counter())

    def check(self) -> None:
        """Raises `OutOfTime` if the limit is reached."""
        if self.seconds is not None and time.perf_counter() - self.began > self.seconds:
            raise OutOfTime(f"its {self.seconds:g} seconds were over (pass a larger seconds=…)")
