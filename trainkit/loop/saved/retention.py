"""The retention policy: the latest, the best, periodic ones, and the last good checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from trainkit._core import validation

KEPT = ("keep", "keep_best", "keep_every", "keep_seconds")  # the options, as `fit` names them


@dataclasses.dataclass
class Retention:
    """The policy by which Orbax keeps steps.

    Attributes:
      keep: the number of latest steps to keep.
      keep_best: the number of steps with the best scores to keep.
      mode: "min" or "max": which scores are best.
      keep_every: keep the first step in each interval of this many steps forever; `None`: none.
      keep_seconds: the same for intervals in seconds, counted from the first checkpoint.
      scores: step -> score, for steps that have one.
      times: step -> time of saving, in seconds.
      bad: steps that are damaged or not finite. The last of the other steps is always kept.

    >>> retention = Retention(1, 1, "min", scores={1: 3.0, 2: 1.0, 3: 1.0})
    >>> retention.ranked([1, 2, 3, 4]), sorted(retention.kept([1, 2, 3, 4]))
    ([2, 3, 1], [2, 4])
    >>> sorted(Retention(1, 0, "min", keep_every=100).kept([50, 99, 101, 150, 200, 210]))
    [101, 200, 210]
    """

    keep: int
    keep_best: int
    mode: str
    keep_every: int | None = None
    keep_seconds: float | None = None
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    times: dict[int, float] = dataclasses.field(default_factory=dict)
    bad: set[int] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        validation.integer("keep", self.keep, hint="a run resumes from the latest")
        validation.integer("keep_best", self.keep_best, least=0)
        validation.choice("mode", self.mode, ("min", "max"))
        if self.keep_every is not None:
            validation.integer("keep_every", self.keep_every, hint="it counts steps")
        if self.keep_seconds is not None:
            validation.number("keep_seconds", self.keep_seconds, above=0)

    def rate(self, step: int, score: float | None) -> None:
        """Sets the score of a step; NaN counts as no score."""
        if score is not None and not math.isnan(score):
            self.scores[step] = float(score)

    def ranked(self, steps: Sequence[int]) -> list[int]:
        """The steps with a score, the best first; of equal scores, the earlier step first."""
        sign = 1 if self.mode == "min" else -1
        scored = [step for step in steps if step in self.scores]
        return sorted(scored, key=lambda step: (sign * self.scores[step], step))

    def kept(self, steps: Sequence[int]) -> set[int]:
        """The steps to keep."""
        steps = sorted(steps)
        found = {*steps[-self.keep :], *self.ranked(steps)[: self.keep_best]}
        found.update([step for step in steps if step not in self.bad][-1:])
        if self.keep_every is not None:
            every = self.keep_every
            later = [step for step in steps if step >= every]
            found |= _first_in_each(later, lambda step: step // every)
        if self.keep_seconds is not None and self.times:
            began, seconds = min(self.times.values()), self.keep_seconds
            timed = [step for step in steps if step in self.times]
            found |= _first_in_each(timed, lambda step: int((self.times[step] - began) // seconds))
        return found

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Implements Orbax's protocol of a preservation policy."""
        del context
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _first_in_each(steps: Sequence[int], part: Callable[[int], int]) -> set[int]:
    """The first step of each interval; it stays the first when others are deleted."""
    found: dict[int, int] = {}
    for step in steps:
        found.setdefault(part(step), step)
    return set(found.values())
