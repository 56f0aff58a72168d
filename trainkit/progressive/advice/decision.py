"""The advice: which choice to take, what loss is expected of each, and how sure that is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainkit._core.units import flops as flops_text
from trainkit.progressive.advice.choices import Choice
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.stages.stage import Stage

SURE = 0.95  # of all intervals
# A larger size is taken in the place of the one with the lowest expected loss if it ends as low
# with this probability. Chosen on twelve of the tasks of `trainkit train regret`.
AS_LOW = 0.25


@dataclasses.dataclass(frozen=True)
class Expected:
    """The loss that is expected of a choice at the budget.

    Attributes:
      choice: the choice.
      flops_per_step: of the stage that it ends with.
      loss: the median; infinite where its short runs diverged.
      low, high: its 95 % interval.
      before_growth: the mean over seeds of the loss just before it grew, at the full rate, and
        half its 95 % interval (NaN for one seed); `None`: it does not grow.
      points: (FLOPs, loss of each seed) of its short runs.
    """

    choice: Choice
    flops_per_step: float
    loss: float
    low: float
    high: float
    before_growth: tuple[float, float] | None
    points: tuple[tuple[float, tuple[float, ...]], ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        choice = {"name": self.choice.name, "steps": self.choice.steps, "share": self.choice.share}
        own = {k: getattr(self, k) for k in ("loss", "low", "high", "before_growth", "points")}
        return _finite({**choice, "how": str(self.choice.ends_with.how), **own})


@dataclasses.dataclass(frozen=True)
class Advice:
    """Whether to grow, and what is expected of each choice.

    Attributes:
      grow: whether to grow: if that is likelier than not to end lower than every size alone.
      best: the choice to take.
      other: that of the other kind: a growth if `best` is a size alone, else a size alone.
      below: how much lower the best growth ends than the best of all sizes alone: median, and the
        ends of its 95 % interval. That growing pays is said only if all of it is above 0.
      chance: the probability that the best growth ends lower than every size alone.
      expected: what is expected of each choice, the lowest loss first.
      flops: the budget of the run that this is about.
      ledger: the FLOPs of the short runs.
      metric: the name of the loss.
    """

    grow: bool
    best: Expected
    other: Expected
    below: tuple[float, float, float]
    chance: float
    expected: tuple[Expected, ...]
    flops: float
    ledger: Ledger
    metric: str = "loss"

    @property
    def growth(self) -> Expected:
        """The best growth."""
        return self.best if self.grow else self.other

    @property
    def alone(self) -> Expected:
        """The size to take if nothing grows."""
        return self.other if self.grow else self.best

    @property
    def stages(self) -> list[Stage]:
        """The stages to train, for `progressive`: one, or two with the growth after some steps."""
        return list(self.best.choice.stages)

    @property
    def sentence(self) -> str:
        """The advice in words."""
        below, low, high = self.below
        growth, alone = self.growth, self.alone
        side = "lower" if below >= 0 else "higher"
        ends = (low, high) if below >= 0 else (-high, -low)
        difference = (
            f"{abs(below):.3f} {side} than the best size alone (95 % interval "
            f"{ends[0]:.3f} to {ends[1]:.3f})"
        )
        reached = lambda one: f"{one.loss:.3f} ({one.low:.3f} to {one.high:.3f})"
        if not math.isfinite(growth.loss):
            return (
                f"Do not grow: every growth diverged. Train {alone.choice.name} alone, expected "
                f"loss {reached(alone)}."
            )
        if self.grow:
            why = "pays" if low > 0 else "may pay"
            return (
                f"Grow, which {why}: {growth.choice.name} of the budget, after "
                f"{growth.choice.steps:,} steps; expected loss {reached(growth)}, {difference}; "
                f"lower with a probability of {self.chance:.0%}."
            )
        why = "growing does not pay" if high < 0 else "growing is not expected to pay"
        return (
            f"Do not grow: {why}: {growth.choice.name} is expected to end {difference}; lower "
            f"with a probability of {self.chance:.0%}. Train {alone.choice.name} alone, expected "
            f"loss {reached(alone)}."
        )

    def __str__(self) -> str:
        width = max(len(one.choice.name) for one in self.expected)
        rows = [
            f"  {one.choice.name:{width}}  {one.loss:.3f}  {one.low:.3f} to {one.high:.3f}"
            for one in self.expected
        ]
        spent = self.ledger.total / self.flops
        return "\n".join(
            [
                f"Expected loss at {flops_text(self.flops)}, and its 95 % interval:",
                *rows,
                f"The probes took {flops_text(self.ledger.total)}, {spent:.1%} of the budget.",
                self.sentence,
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "grow": self.grow,
            "best": self.best.choice.name,
            "below": _finite(self.below),
            "chance": self.chance,
            "sentence": self.sentence,
            "flops": self.flops,
            "ledger": self.ledger.to_json(),
            "spent": self.ledger.total,
            "expected": [one.to_json() for one in self.expected],
        }


def expected_of(
    choice: Choice, flops_per_step: float, draws: np.ndarray, points: Any, before: Sequence[float]
) -> Expected:
    """What is expected of a choice, from draws of its loss at the budget.

    Args:
      choice: the choice.
      flops_per_step: of the stage that it ends with.
      draws: float64 [draws]; infinite where it diverged.
      points: FLOPs [rungs] and losses [rungs, seeds] of its short runs.
      before: the loss of each seed before it grew; empty: it does not grow.
    """
    low, loss, high = quantiles(draws)
    pairs = tuple((float(x), tuple(map(float, y))) for x, y in zip(*points, strict=True))
    return Expected(choice, flops_per_step, loss, low, high, _mean_error(before), pairs)


def _finite(value: Any) -> Any:
    """JSON values, `None` for what is not finite, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean_error(values: Sequence[float]) -> tuple[float, float] | None:
    if not values:
        return None
    if len(values) < 2:
        return float(values[0]), math.nan
    from scipy.stats import t  # takes a while to import

    # The interval of one further run, not of the mean.
    error = float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / len(values))
    return float(np.mean(values)), float(t.ppf(0.5 + SURE / 2, len(values) - 1)) * error


def quantiles(draws: np.ndarray) -> tuple[float, float, float]:
    """The lower end of the interval, the median and the upper end."""
    if not np.isfinite(draws).all():
        return math.inf, math.inf, math.inf
    low, middle, high = np.quantile(draws, [0.5 - SURE / 2, 0.5, 0.5 + SURE / 2])
    return float(low), float(middle), float(high)


def decide(
    expected: Sequence[Expected],
    draws: np.ndarray,
    flops: float,
    ledger: Ledger,
    metric: str = "loss",
) -> Advice:
    """Compares the choices at the budget.

    The growth with the lowest expected loss is taken if it ends below the lowest of all sizes
    alone in more than half of the draws. Else a size is taken alone: of those that end as low as
    the one with the lowest expected loss with a probability of a quarter or more, the one with the
    most FLOPs a step. Short runs favour small models and short examples, and the best size grows
    with the budget (Hoffmann et al., 2022).

    Args:
      expected: the choices, at least one alone and one that grows.
      draws: float64 [choices, draws] of their losses at the budget.
      flops: the budget.
      ledger: what the probes took.
      metric: the name of the loss.

    Raises:
      ValueError: all sizes alone have diverged.
    """
    alone = [k for k, one in enumerate(expected) if not one.choice.grows]
    growths = [k for k, one in enumerate(expected) if one.choice.grows]
    by_loss = lambda k: expected[k].loss
    size, growth = min(alone, key=by_loss), min(growths, key=by_loss)
    if not math.isfinite(expected[size].loss):
        raise ValueError(
            "Every size alone diverged in its short runs, so nothing can be expected: lower the "
            "learning rate of tx, or the stages' learning_rate."
        )
    low = below = high = -math.inf
    chance = 0.0
    if math.isfinite(expected[growth].loss):
        lower = draws[alone].min(0) - draws[growth]
        low, below, high = quantiles(lower)
        chance = float((lower > 0).mean())
    grow = chance > 0.5
    near = [k for k in alone if (draws[k] <= draws[size]).mean() >= AS_LOW]
    size = max(near, key=lambda k: (expected[k].flops_per_step, -expected[k].loss))
    best, other = (growth, size) if grow else (size, growth)
    return Advice(
        grow, expected[best], expected[other], (below, low, high), chance,
        tuple(sorted(expected, key=lambda one: one.loss)), flops, ledger, metric,
    )  # fmt: skip
