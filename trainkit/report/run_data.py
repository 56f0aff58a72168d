"""What a report is made of: the rows, configuration and summary of a run, as plain data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit._core.run_files import CONFIG, SUMMARY, Row, in_use, read_json, read_metrics

# Columns that count or time; everything else is a metric.
COUNTS = {"step", "kind", "epoch", "examples", "flops", "seconds", "compile_seconds", "stage"}


@dataclasses.dataclass(frozen=True)
class RunData:
    """A run to report on.

    Attributes:
      name: in legends and tables.
      rows: of its metrics log.
      config: its options.
      summary: how it ended and what it was made with, or how it began where it has not ended.
      running: whether some process trains it now.
    """

    name: str
    rows: Sequence[Row]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    running: bool = False

    def of(self, kind: str) -> list[Row]:
        """The rows of a kind: "train", "evaluation" or "event"."""
        return [row for row in self.rows if row["kind"] == kind]

    def series(self, kind: str, x: str, y: str) -> tuple[list[float], list[float]]:
        """Two columns of the rows of a kind that have both."""
        rows = [row for row in self.of(kind) if x in row and y in row]
        return [row[x] for row in rows], [row[y] for row in rows]

    def metrics(self, kind: str) -> list[str]:
        """The names of what was measured in the rows of a kind."""
        names: dict[str, None] = {}
        for row in self.of(kind):
            numbers = [n for n, v in row.items() if n not in COUNTS and isinstance(v, int | float)]
            names |= dict.fromkeys(numbers)
        return list(names)


def read_run(folder: str | os.PathLike, name: str | None = None) -> RunData:
    """The run in a folder."""
    folder = Path(folder)
    config, summary = read_json(folder / CONFIG), read_json(folder / SUMMARY)
    rows = read_metrics(folder)
    return RunData(name or folder.resolve().name, rows, config, summary, in_use(folder))
