"""What a run has used and seen so far, and what it gives in the end."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit.loop.stopping import Best
from trainkit.step.state import TrainState


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run has used and seen; saved with every checkpoint.

    Attributes:
      step: optimizer steps taken.
      before: the same before the last call of the step.
      examples, flops, seconds: used, over all sessions.
      epoch: passes over the data.
      evaluation: metrics of the last evaluation.
      evaluated_at: the step of that evaluation.
      best: the best evaluation.
      train, train_at: the last logged training metrics, and their step.
    """

    step: int = 0
    before: int = 0
    examples: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    epoch: float = 0.0
    evaluation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    evaluated_at: int | None = None
    best: Best = dataclasses.field(default_factory=Best)
    train: Mapping[str, float] = dataclasses.field(default_factory=dict)
    train_at: int | None = None

    @property
    def used(self) -> dict[str, Any]:
        """What a budget counts."""
        return {
            "steps": self.step,
            "epochs": self.epoch,
            "examples": self.examples,
            "seconds": self.seconds,
            "flops": self.flops,
        }

    def crossed(self, every: int | None) -> bool:
        """Whether the last call reached or passed a multiple of `every` steps."""
        return every is not None and self.step // every > self.before // every

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Record:
        """The record that `to_json` gave."""
        return cls(**{**saved, "best": Best(**saved["best"])})


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
      state: the last state, or the best one where early stopping restores it.
      metrics: of the last step that was trained.
      evaluation: of the last evaluation; `{}` where there was none.
      evaluated_at: the step of that evaluation; an interrupted run does not evaluate at its end.
      best: the best evaluation: its step, value and metrics.
      stopped: why the run ended, in words.
      steps, epochs, examples, flops, seconds: used, over all sessions of a resumed run.
      folder: where its files are; `None` without an output folder.
      report: the report's file, if one was written.
    """

    state: TrainState
    metrics: Mapping[str, float]
    evaluation: Mapping[str, float]
    evaluated_at: int | None
    best: Best
    stopped: str
    steps: int
    epochs: float
    examples: int
    flops: float
    seconds: float
    folder: Path | None = None
    report: Path | None = None

    def _repr_html_(self) -> str:
        """How the run ended, and its report, as a notebook shows the value of a cell."""
        words = html.escape(f"{self.stopped}, after {self.steps:,} steps")
        found = {**self.metrics, **{f"evaluation/{n}": v for n, v in self.evaluation.items()}}
        shown = html.escape(" · ".join(f"{name} {value:.4g}" for name, value in found.items()))
        page = html.escape(self.report.read_text()) if self.report else ""
        frame = f'<iframe srcdoc="{page}" width="100%" height="600"></iframe>' if page else ""
        return f"<p><b>{words}</b></p><p>{shown}</p>{frame}"
