"""Every row as a line on standard output."""

from __future__ import annotations

from collections.abc import Mapping

from trainkit._core import validation
from trainkit._core.run_files import ROW
from trainkit.loggers.logger import Run, Value


class Terminal:
    """Prints a line for each row, training rows too (`progress=True` shows evaluations only).

    Args:
      *names: the metrics that are shown; all, where there are none.

    >>> Terminal("loss").log(50, {"epoch": 0.5, "loss": 0.25, "grad_norm": 3.0}, "train")
    step 50 · train · loss 0.25
    """

    def __init__(self, *names: str):
        for name in names:
            validation.text("every name", name, "Terminal", "give names of metrics")
        self.names = names

    def start(self, run: Run) -> None:
        """Nothing is to be done."""

    def log(self, step: int, values: Mapping[str, Value], kind: str) -> None:
        """Prints a row."""
        chosen = self.names or [name for name in values if name not in ROW]
        shown = [f"{name} {_short(values[name])}" for name in chosen if name in values]
        print(" · ".join([f"step {step:,}", kind, *shown]), flush=True)

    def close(self, stopped: str | None) -> None:
        """Nothing is to be done."""


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
