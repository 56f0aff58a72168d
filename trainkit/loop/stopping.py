"""When a run ends: a budget that is spent, or a metric that no longer improves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from trainkit._core import validation
from trainkit._core.counts import rounded_up
from trainkit._core.units import amount


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run may use; it ends at the first that is used up. `None` is no limit.

    Attributes:
      steps: optimizer steps.
      epochs: passes over the data.
      examples: training examples.
      seconds: of wall time, evaluation included, over all the sessions of a resumed run.
      flops: floating-point operations (see `trainkit.cost`).

    Raises:
      TypeError, ValueError: a limit that is no number, or not greater than 0.

    >>> budget, used = Budget(steps=100, epochs=2), {"steps": 75, "epochs": 1}
    >>> budget.nearest(used), budget.spent(used), budget.spent({"steps": 100, "epochs": 1})
    ((0.75, 'steps'), None, 'steps=100 reached')
    """

    steps: int | None = None
    epochs: float | None = None
    examples: int | None = None
    seconds: float | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if name == "steps":
                validation.integer(name, limit, hint="None is no limit")
            validation.number(name, limit, above=0, finite=False, hint="None is no limit")

    @property
    def limits(self) -> dict[str, float]:
        """Name -> limit, of those there are."""
        fields = dataclasses.asdict(self)
        return {name: limit for name, limit in fields.items() if limit is not None}

    def nearest(self, used: Mapping[str, float]) -> tuple[float, str | None]:
        """How much of the nearest limit is used (1 is all of it), and which that is."""
        shares = {name: used[name] / limit for name, limit in self.limits.items()}
        name = max(shares, key=lambda name: shares[name], default=None)
        return (shares[name], name) if name is not None else (0.0, None)

    def spent(self, used: Mapping[str, float]) -> str | None:
        """Which limit has been reached, in words, or `None`."""
        share, name = self.nearest(used)
        if name is None or share < 1:
            return None
        return f"{name}={amount(name, self.limits[name])} reached"

    def share(self, used: Mapping[str, float]) -> float:
        """How much of the budget is used, from 0 to 1."""
        return min(self.nearest(used)[0], 1.0)

    def steps_left(self, used: Mapping[str, float], rates: Mapping[str, float]) -> int:
        """How many more steps there is room for, at what a step takes of each; 1 or more.

        >>> Budget(examples=100).steps_left({"examples": 60}, {"examples": 16.0})
        3
        """
        left = [
            (limit - used[name]) / rates[name]
            for name, limit in self.limits.items()
            if rates[name] > 0
        ]
        return max(1, rounded_up(min(left, default=1)))


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Ends a run when an evaluation metric has stopped improving.

    An evaluation improves if its value is better than the best so far by more than `min_delta`.
    After `patience` evaluations in a row that do not, the run ends.

    Attributes:
      metric: a name in the evaluation's metrics.
      mode: "min" or "max", what is better.
      patience: how many evaluations to wait, 1 or more.
      min_delta: the least change that counts, in the metric's own units.
      restore_best: whether the state returned is that of the best evaluation.

    Raises:
      ValueError: an attribute out of range.

    Reference: Prechelt, "Early Stopping — But When?", 1998.

    >>> EarlyStopping("accuracy", mode="max", patience=5).restore_best
    True
    """

    metric: str = "loss"
    mode: str = "min"
    patience: int = 3
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        validation.text("metric", self.metric, "EarlyStopping")
        validation.choice("mode", self.mode, ("min", "max"), "EarlyStopping")
        validation.integer("patience", self.patience, "EarlyStopping")
        validation.number("min_delta", self.min_delta, "EarlyStopping", least=0)
        validation.flag("restore_best", self.restore_best, "EarlyStopping")


@dataclasses.dataclass(frozen=True)
class Best:
    """The best evaluation so far, and how long ago it was.

    Attributes:
      step: when it was; `None` before the first.
      value: of the metric.
      metrics: all metrics of that evaluation.
      waited: evaluations since then that were no better.
    """

    step: int | None = None
    value: float = math.nan
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    waited: int = 0

    def after(
        self,
        step: int,
        metrics: Mapping[str, float],
        metric: str,
        mode: str,
        min_delta: float = 0.0,
    ) -> Best:
        """The best after one more evaluation; NaN is never better.

        >>> best = Best().after(10, {"loss": 1.0}, "loss", "min")
        >>> best = best.after(20, {"loss": 0.95}, "loss", "min", min_delta=0.1)
        >>> best.step, best.value, best.waited
        (10, 1.0, 1)
        """
        if metric not in metrics:
            raise ValueError(
                f"The evaluation has no metric {metric!r}; it has {', '.join(sorted(metrics))}. "
                "Give EarlyStopping or best_metric= one of these."
            )
        value = float(metrics[metric])
        gain = self.value - value if mode == "min" else value - self.value
        # Without a best yet, anything that is a number is better.
        better = not math.isnan(value) and (math.isnan(self.value) or gain > min_delta)
        if better:
            return Best(step, value, dict(metrics))
        return dataclasses.replace(self, waited=self.waited + 1)
