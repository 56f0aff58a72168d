"""Which checkpoints are kept: the latest, and those with the best scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass
class Retention:
    """What Orbax asks which steps to keep.

    Attributes:
      keep: how many of the latest.
      keep_best: how many of those with the best score.
      mode: "min" or "max", what makes a score the best.
      scores: step -> score, of those that have one.

    >>> retention = Retention(1, 1, "min", {1: 3.0, 2: 1.0, 3: 1.0})
    >>> retention.ranked([1, 2, 3, 4]), sorted(retention.kept([1, 2, 3, 4]))
    ([2, 3, 1], [2, 4])
    """

    keep: int
    keep_best: int
    mode: str
    scores: dict[int, float] = dataclasses.field(default_factory=dict)

    def rate(self, step: int, score: float | None) -> None:
        """Gives a step its score; NaN is never the best."""
        if score is not None and not math.isnan(score):
            self.scores[step] = float(score)

    def ranked(self, steps: Sequence[int]) -> list[int]:
        """The steps that have a score, the best first; of equals the earlier, which led."""
        sign = 1 if self.mode == "min" else -1
        scored = [step for step in steps if step in self.scores]
        return sorted(scored, key=lambda step: (sign * self.scores[step], step))

    def kept(self, steps: Sequence[int]) -> set[int]:
        """The steps to keep."""
        return {*sorted(steps)[-self.keep :], *self.ranked(steps)[: self.keep_best]}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """The protocol of Orbax."""
        del context
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]
