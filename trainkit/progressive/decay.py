"""The final learning-rate decay of a progressive run: when it begins, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainkit._core.units import amount
from trainkit.loop.stopping import Budget
from trainkit.progressive.stages.prepared import PreparedStage


class Decay:
    """The final decay of a run.

    Attributes:
      budget: the limits of the run.
      share: the fraction of the run over which the rate falls, in [0, 1); 0: no decay.
      under_way: {"until": last step, "reason": text}; `None` before the decay begins.
    """

    def __init__(self, budget: Budget, share: float):
        self.budget, self.share = budget, share
        self.under_way: dict[str, Any] | None = None

    def due(self, used: Mapping[str, float]) -> str | None:
        """The limit that is near enough for the decay to begin, as text; else `None`."""
        if self.under_way is not None or not self.share:
            return None
        return self._spent(used, 1 - self.share)

    def spent(self, used: Mapping[str, float]) -> str | None:
        """The limit that is used up, as text; else `None`."""
        return self._spent(used, 1.0)

    def _spent(self, used: Mapping[str, float], least: float) -> str | None:
        share, name = self.budget.nearest(used)
        if name is None or share < least:
            return None
        return f"budget spent: {name}={amount(name, self.budget.limits[name])}"

    def over(self, step: int) -> str | None:
        """Why the run has ended, if the rate has reached 0; else `None`."""
        if self.under_way is None or step < self.under_way["until"]:
            return None
        return f"{self.under_way['reason']}, and the learning rate has decayed"

    def left(self, step: int) -> float:
        """The share of the learning rate that is left at a step: 1 before the decay, then to 0."""
        if self.under_way is None:
            return 1.0
        return max(0.0, (self.under_way["until"] - step) / self.under_way["steps"])

    def steps_left(
        self, used: Mapping[str, float], base: Mapping[str, float], current: PreparedStage
    ) -> int:
        """The number of steps that fit into the budget, at the rate of this stage so far.

        Args:
          used: counts so far, by the names of `Budget`.
          base: counts when the stage began, by the names of `triggers.Observation`.
          current: the stage.
        """
        took = max(used["steps"] - base["step"], 1)
        rates = {
            "steps": 1.0,
            "epochs": (used["epochs"] - base["epoch"]) / took,
            "examples": float(current.per_batch),
            "seconds": (used["seconds"] - base["seconds"]) / took,
            "flops": max((used["flops"] - base["flops"]) / took, current.flops_per_step),
        }
        return self.budget.steps_left(used, rates)

    def steps_after(
        self, used: Mapping[str, float], base: Mapping[str, float], current: PreparedStage
    ) -> int:
        """The length of the decay if the last stage ends before any limit is near."""
        steps = max(1, round(used["steps"] * self.share / (1 - self.share)))
        if self.budget == Budget():
            return steps
        return min(steps, self.steps_left(used, base, current))
