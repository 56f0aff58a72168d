"""Rows in a CSV file, whose columns grow."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainkit._core import validation
from trainkit._core.run_files import open_new
from trainkit.loggers.logger import Run, Value


class CSV:
    """A table with a column for each name; a row with a new name has the file written anew.

    Args:
      path: of the file. Where a run goes on, it is written anew from the rows of the run.
    """

    def __init__(self, path: str | os.PathLike):
        validation.path("path", path)
        self.path = Path(path)
        self._file: Any = None

    def start(self, run: Run) -> None:
        """Writes the rows there are."""
        self._columns: list[str] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._rewrite(run.rows)

    def log(self, step: int, values: Mapping[str, Value], kind: str) -> None:
        """Writes a row."""
        row = {"step": step, "kind": kind, **values}
        if set(row) <= set(self._columns):
            self._write(row)
            self._file.flush()
        else:
            with self.path.open(newline="", encoding="utf-8") as file:
                self._rewrite([*csv.DictReader(file), row])

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        if self._file is not None:
            self._file.close()
        self._columns = list(dict.fromkeys([*self._columns, *(n for row in rows for n in row)]))
        self._file = open_new(self.path)
        if self._columns:
            csv.writer(self._file).writerow(self._columns)
        for row in rows:
            self._write(row)
        self._file.flush()
        # The open file goes on under its new name.
        Path(self._file.name).replace(self.path)

    def _write(self, row: Mapping[str, Any]) -> None:
        csv.writer(self._file).writerow([row.get(name, "") for name in self._columns])

    def close(self, stopped: str | None) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
