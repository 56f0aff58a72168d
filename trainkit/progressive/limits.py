"""What a run may use."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a run may use, all of it together; it ends at the first that is used up.

    Attributes:
      steps, epochs, examples, seconds: of training.
      flops: of everything in the ledger: training, evaluations, probes and growth.
    """

    steps: int | None = None
    epochs: float | None = None
    examples: int | None = None
    flops: float | None = None
    seconds: float | None = None

    def share(self, used: Mapping[str, float]) -> tuple[float, str | None]:
        """How much of the nearest limit is used (1 is all of it), and which that is."""
        shares = {
            name: used[name] / limit
            for name, limit in dataclasses.asdict(self).items()
            if limit is not None
        }
        nearest = max(shares, key=lambda name: shares[name], default=None)
        return (shares[nearest], nearest) if nearest else (0.0, None)

    def reason(self, name: str) -> str:
        """That a limit is used up, in words."""
        return f"budget spent: {name}={getattr(self, name):g}"

    def steps_left(self, used: Mapping[str, float], rates: Mapping[str, float]) -> int:
        """How many more steps there is room for, at what a step takes of each; 1 or more.

        >>> Limits(examples=100).steps_left({"examples": 60}, {"examples": 16.0})
        3
        """
        left = [
            (limit - used[name]) / rates[name]
            for name, limit in dataclasses.asdict(self).items()
            if limit is not None and rates[name] > 0
        ]
        return max(1, math.ceil(min(left, default=1)))
