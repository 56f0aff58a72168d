"""A row: one measured number with its spread and the command that repeats it."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable, Sequence

import numpy as np

HEAD = ("what", "result", "quartiles", "rounds", "note", "date", "command")


@dataclasses.dataclass(frozen=True)
class Row:
    """One number.

    Attributes:
      name: what was measured.
      value: the median over rounds; NaN where nothing could be measured, and `note` says why.
      low, high: the quartiles over rounds.
      rounds: how many rounds there were.
      unit: empty for a ratio, which is what a row should be; otherwise the unit, such as "s CPU".
      note: the target and whether it was reached, or an explanation.
      date: the day of the measurement.
      command: what measures it again.
    """

    name: str
    value: float
    low: float
    high: float
    rounds: int
    unit: str = ""
    note: str = ""
    date: str = dataclasses.field(default_factory=lambda: datetime.date.today().isoformat())
    command: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        values: Sequence[float] | np.ndarray,
        *,
        unit: str = "",
        least: float | None = None,
        most: float | None = None,
        note: str = "",
    ) -> Row:
        """The median and quartiles of the values of all rounds, held against a target."""
        low, middle, high = np.percentile(np.asarray(values, float), [25, 50, 75])
        notes = [note] if note else []
        if least is not None:
            notes.append(f"target ≥ {least:g}" + ("" if middle >= least else ", missed"))
        if most is not None:
            notes.append(f"target ≤ {most:g}" + ("" if middle <= most else ", missed"))
        numbers = float(middle), float(low), float(high)
        return cls(name, *numbers, len(values), unit=unit, note="; ".join(notes))

    @classmethod
    def missing(cls, name: str, reason: str) -> Row:
        """A row for what could not be measured."""
        short = " ".join(reason.split()).replace("|", "/")
        return cls(name, math.nan, math.nan, math.nan, 0, note=short)

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEAD`."""
        if math.isnan(self.value):
            value, spread = "—", ""
        else:
            value = " ".join(filter(None, (number(self.value), self.unit)))
            spread = f"{number(self.low)} … {number(self.high)}"
        command = f"`{self.command}`"
        return (self.name, value, spread, str(self.rounds), self.note, self.date, command)


def number(value: float) -> str:
    """Three significant digits, and never an exponent for what a reader compares."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{min(digits, 5)}f}"


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row.cells()) + " |" for row in rows])


def parse(text: str) -> list[Row]:
    """The rows of the table in a text; the inverse of `table`, up to the digits that it writes."""
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == len(HEAD) and cells[3].isdigit():
            rows.append(_row(cells))
    return rows


def _row(cells: list[str]) -> Row:
    name, value, spread, rounds, note, date, command = cells
    middle, _, unit = value.partition(" ")
    low, _, high = spread.partition(" … ")
    numbers = [math.nan if x in ("", "—") else float(x) for x in (middle, low, high)]
    return Row(name, *numbers, int(rounds), unit, note, date, command.strip("`"))


def printed(row: Row) -> str:
    """The row as one line for a terminal."""
    name, value, spread, rounds, note, *_ = row.cells()
    return f"{name:<58} {value:>12}   {spread:<17} {rounds:>3}  {note}"
