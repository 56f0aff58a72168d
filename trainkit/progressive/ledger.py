"""The FLOPs of a progressive run, by category."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainkit._core.units import flops, si


@dataclasses.dataclass(frozen=True)
class Ledger:
    """FLOPs of a run by category, counted from the compiled programs.

    Attributes:
      train: FLOPs of the training steps of all stages.
      evaluate: FLOPs of evaluations.
      probe: FLOPs of training and scoring candidates.
      growth: FLOPs of growing states and computing their certificates.
      analytic: 6·N·D summed over the stages, the usual estimate of `train`, with N parameters and
        D tokens (or examples). It omits attention, and counts a convolution's kernel once.

    >>> ledger = Ledger().plus(train=3e9, analytic=2.5e9).plus(evaluate=1e9)
    >>> print(ledger)
    total 4 GFLOPs: train 3 G (6·N·D 2.5 G), evaluate 1 G, probe 0, growth 0
    """

    train: float = 0.0
    evaluate: float = 0.0
    probe: float = 0.0
    growth: float = 0.0
    analytic: float = 0.0

    @property
    def total(self) -> float:
        """The sum of the measured categories: all but `analytic`."""
        return self.train + self.evaluate + self.probe + self.growth

    def plus(self, **more: float) -> Ledger:
        """A ledger with these FLOPs added to its categories."""
        return dataclasses.replace(self, **{k: getattr(self, k) + v for k, v in more.items()})

    def to_json(self) -> dict[str, float]:
        """The categories as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Ledger:
        """The inverse of `to_json`."""
        return cls(**saved)

    def __str__(self) -> str:
        return (
            f"total {flops(self.total)}: train {si(self.train)} (6·N·D {si(self.analytic)}), "
            f"evaluate {si(self.evaluate)}, probe {si(self.probe)}, growth {si(self.growth)}"
        )
