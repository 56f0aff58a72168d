"""A hook that ends a run which does worse than most of those beside it."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from trainkit._core import validation
from trainkit._core.run_files import JSONL, Row, read_metrics
from trainkit.loop.hooks import Change, Now

PRUNED = "pruned"


class StopBelowMedian:
    """Ends a run whose evaluation is worse than the median of the other runs at the same step.

    A run that is not finite at an evaluation is ended too. Nothing else is ended before `least`
    other runs have come as far, so the first runs of a sweep end by themselves.

    Args:
      folders: of the other runs; those that do not exist yet are left out. A function gives them
        anew at each evaluation.
      metric: a name in the evaluation's metrics.
      mode: "min" or "max", what is better.
      least: how many other runs there must be.
      after: the steps before which no run is ended.

    Raises:
      TypeError, ValueError: an argument of another kind or out of range.

    Reference: Golovin et al., Google Vizier: A Service for Black-Box Optimization, 2017 (the median
    stopping rule; the present value is compared here, not the mean or the best of a run so far).
    """

    def __init__(
        self,
        folders: Sequence[str | os.PathLike] | Callable[[], Sequence[str | os.PathLike]],
        metric: str = "loss",
        *,
        mode: str = "min",
        least: int = 3,
        after: int = 0,
    ):
        of = "StopBelowMedian"
        validation.text("metric", metric, of)
        validation.choice("mode", mode, ("min", "max"), of)
        validation.integer("least", least, of)
        validation.integer("after", after, of, least=0)
        self._folders = folders if callable(folders) else lambda: folders
        self.metric, self.mode, self.least, self.after = metric, mode, least, after

    def __call__(self, now: Now) -> Change | None:
        """After an evaluation, whether the run ends here."""
        if not now.evaluated or now.steps < self.after:
            return None
        if self.metric not in now.evaluation:
            raise ValueError(
                f"StopBelowMedian: the evaluation has no metric {self.metric!r}; it has "
                f"{', '.join(sorted(now.evaluation))}."
            )
        mine = now.evaluation[self.metric]
        if not math.isfinite(mine):
            return self._ended(f"{PRUNED}: its {self.metric} is {mine}")
        others = [value for value in map(self._value, self._others(now.steps)) if value is not None]
        if len(others) < self.least:
            return None
        median = statistics.median(others)
        worse = mine > median if self.mode == "min" else mine < median
        if not worse:
            return None
        reached = f"{self.metric} {mine:.4g} at step {now.steps:,}"
        return self._ended(f"{PRUNED}: {reached}, the median of {len(others)} runs is {median:.4g}")

    def _others(self, steps: int) -> list[Row]:
        """The evaluation at this step, or the last before it, of each run that came as far."""
        found = []
        for folder in self._folders():
            if not (Path(folder) / JSONL).exists():
                continue
            rows = [row for row in read_metrics(folder) if row["kind"] == "evaluation"]
            if rows and rows[-1]["step"] >= steps:
                before = [row for row in rows if row["step"] <= steps]
                found += before[-1:]
        return found

    def _value(self, row: Row) -> float | None:
        value = row.get(self.metric)
        if value is None or not math.isnan(value):
            return value
        return math.inf if self.mode == "min" else -math.inf

    def _ended(self, why: str) -> Change:
        return Change(stop=why, event={"event": PRUNED, "reason": why})
