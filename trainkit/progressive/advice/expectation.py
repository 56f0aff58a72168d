"""What a run that follows an advice expects, to be held against what comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainkit.progressive.advice.decision import Advice
from trainkit.progressive.stages import triggers
from trainkit.progressive.stages.stage import Alternatives, Stage, StageError

# A run's budget may differ from that of its advice by this share.
EQUAL = 0.01


class Expectation(NamedTuple):
    """The losses that are expected of a run.

    Attributes:
      metric: the name of the loss.
      before_growth: just before the growth, and half its 95 % interval; `None`: nothing grows.
      end: at the end, and its 95 % interval.
    """

    metric: str
    before_growth: tuple[float, float] | None
    end: tuple[float, float, float]

    def at_growth(self, found: Mapping[str, float]) -> dict[str, float]:
        """The fields of a growth's event."""
        if self.before_growth is None:
            return {}
        mean, error = self.before_growth
        return self._held(mean, mean - error, mean + error, found)

    def at_end(self, found: Mapping[str, float]) -> dict[str, float]:
        """The fields of the event at the end."""
        return self._held(*self.end, found)

    def _held(
        self, mean: float, low: float, high: float, found: Mapping[str, float]
    ) -> dict[str, float]:
        limits = {} if low != low else {"expected_low": low, "expected_high": high}
        came = {"came": found[self.metric]} if self.metric in found else {}
        return {"expected": mean, **limits, **came}


def expectation_of(advice: Advice) -> Expectation:
    """What is expected of a run that follows an advice."""
    best = advice.best
    return Expectation(advice.metric, best.before_growth, (best.loss, best.low, best.high))


def followed(
    stages: Sequence[Stage | Sequence[Any]],
    levels: Sequence[Alternatives],
    advice: Advice | None,
    flops: float | None,
) -> Sequence[Stage | Sequence[Any]]:
    """The stages of a run: those that are advised, or those given if there is no advice.

    Args:
      stages: as given to `progressive`.
      levels: the same, normalised.
      advice: the advice, or `None`.
      flops: the budget of the run.

    Raises:
      StageError: a stage ends when advised, but there is no advice; or the advice is about others.
      ValueError: the run's budget is not that of the advice.
    """
    given = [(number, stage) for number, level in enumerate(levels) for stage in level]
    for number, stage in given:
        text = str(stage.until)
        if "advised" in text and stage.until is not triggers.advised():
            raise StageError(
                f"Stage {number} ends at {text!r}: triggers.advised() cannot be combined with "
                "other triggers; use it alone."
            )
        if "advised" in text and advice is None:
            raise StageError(
                f"Stage {number} ends when advised, but the run has no advice: give it "
                "advice=advise(…), or another trigger, such as triggers.plateau('loss')."
            )
    if advice is None:
        return stages
    for own in advice.growth.choice.stages:
        if not any((own.model, own.how) == (other.model, other.how) for _, other in given):
            raise StageError(
                f"The advice is about {own.name or str(own.model):.60}, which is none of these "
                "stages: ask for advice about the stages of this run."
            )
    if flops is None or abs(flops / advice.flops - 1) > EQUAL:
        raise ValueError(
            f"The advice is for flops={advice.flops:.6g}, but the run has flops={flops}: give "
            "both the same budget."
        )
    return advice.stages
