"""What a growing run has cost, by what it was spent on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainkit._core.units import flops, si


@dataclasses.dataclass(frozen=True)
class Ledger:
    """FLOPs of a run by category, counted from the compiled programs.

    Attributes:
      train: of the training steps of every stage.
      evaluate: of the evaluations.
      probe: of trying candidates.
      growth: of growing the state and certifying it.
      analytic: 6·N·D summed over the stages, the usual estimate of `train`, with N parameters and
        D tokens (or examples); it leaves out attention, and counts a convolution's kernel once.

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
        """Everything that was computed."""
        return self.train + self.evaluate + self.probe + self.growth

    def plus(self, **more: float) -> Ledger:
        """With some categories larger."""
        return dataclasses.replace(self, **{k: getattr(self, k) + v for k, v in more.items()})

    def to_json(self) -> dict[str, float]:
        """As JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Ledger:
        """The ledger that `to_json` gave."""
        return cls(**saved)

    def __str__(self) -> str:
        return (
            f"total {flops(self.total)}: train {si(self.train)} (6·N·D {si(self.analytic)}), "
            f"evaluate {si(self.evaluate)}, probe {si(self.probe)}, growth {si(self.growth)}"
        )
