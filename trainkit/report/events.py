"""The events of runs: numbered, each with its run, for the plots and for a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from trainkit._core.run_files import Row
from trainkit._core.units import duration, si
from trainkit.report.run_data import COUNTS, RunData

# Of a row: told elsewhere, or of no use to a reader.
LEFT_OUT = COUNTS | {"event", "reason", "hook_seconds", "alternative"}


@dataclasses.dataclass(frozen=True)
class Numbered:
    """An event of the run with the number `run`, by its own number from 1."""

    number: int
    run: int
    row: Row

    @property
    def name(self) -> str:
        """What happened, in a word or two."""
        return str(self.row.get("event", "event"))


def numbered(runs: Sequence[RunData]) -> list[Numbered]:
    """The events of all runs, one run after the other."""
    rows = [(k, row) for k, run in enumerate(runs) for row in run.of("event")]
    return [Numbered(number, k, row) for number, (k, row) in enumerate(rows, 1)]


def event_rows(runs: Sequence[RunData]) -> list[dict[str, str]]:
    """Rows of a table of all events."""
    found = []
    for event in numbered(runs):
        row = event.row
        shown = {"no.": str(event.number)}
        if len(runs) > 1:
            shown["run"] = runs[event.run].name
        shown |= {"event": event.name, "step": f"{row['step']:,}"}
        if row.get("flops"):
            shown["FLOPs"] = si(row["flops"])
        if "seconds" in row:
            shown["after"] = duration(row["seconds"])
        shown["why"] = str(row.get("reason", ""))
        more = {name: value for name, value in row.items() if name not in LEFT_OUT}
        shown["more"] = ", ".join(
            f"{name.replace('_', ' ')} {_word(value)}" for name, value in more.items()
        )
        found.append(shown)
    # A column that is empty in all rows is none.
    empty = {name for row in found for name in row} - {
        n for row in found for n, v in row.items() if v
    }
    return [{name: v for name, v in row.items() if name not in empty} for row in found]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )
