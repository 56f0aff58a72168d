"""When a run ends: a budget that is spent, or a metric that no longer improves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run may use; it ends at the first that is used up. `None` is no limit.

    Attributes:
      steps: optimizer steps.
      epochs: passes over the data.
      seconds: of wall time, evaluation included, over all the sessions of a resumed run.
      flops: floating-point operations of the training steps (see `trainkit.cost`).

    Raises:
      ValueError: a limit that is not positive.

    >>> Budget(steps=100, epochs=2).spent(steps=100, epochs=1, seconds=9.0, flops=0.0)
    'steps=100 reached'
    """

    steps: int | None = None
    epochs: float | None = None
    seconds: float | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        for name, limit in dataclasses.asdict(self).items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}={limit} must be more than 0, or None for no limit.")

    def spent(self, *, steps: int, epochs: float, seconds: float, flops: float) -> str | None:
        """Which limit has been reached, in words, or `None`."""
        used = {"steps": steps, "epochs": epochs, "seconds": seconds, "flops": flops}
        for name, limit in dataclasses.asdict(self).items():
            if limit is not None and used[name] >= limit:
                return f"{name}={limit:g} reached"
        return None

    def share(self, *, steps: int, epochs: float, seconds: float, flops: float) -> float:
        """How much of the budget is used, from 0 to 1, by the limit that is nearest."""
        used = {"steps": steps, "epochs": epochs, "seconds": seconds, "flops": flops}
        limits = {name: limit for name, limit in dataclasses.asdict(self).items() if limit}
        return min(max((used[name] / limit for name, limit in limits.items()), default=0.0), 1.0)


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
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode={self.mode!r} must be 'min' or 'max'.")
        if self.patience < 1:
            raise ValueError(f"patience={self.patience} must be 1 or more evaluations.")
        if not self.min_delta >= 0:
            raise ValueError(f"min_delta={self.min_delta} must be 0 or more.")


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
                f"The evaluation has no metric {metric!r}; it has {', '.join(sorted(metrics))}."
            )
        value = float(metrics[metric])
        gain = self.value - value if mode == "min" else value - self.value
        # Without a best yet, anything that is a number is better.
        better = not math.isnan(value) and (math.isnan(self.value) or gain > min_delta)
        if better:
            return Best(step, value, dict(metrics))
        return dataclasses.replace(self, waited=self.waited + 1)
