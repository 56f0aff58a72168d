"""What a logger is, and what it is told of a run."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trainkit._core.run_files import ID, Row, write_whole

Value = float | int | bool | str


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that begins or goes on.

    Attributes:
      folder: of its files; `None` without one.
      config: its options, as JSON has them.
      step: from which it goes on; 0 at its beginning.
      rows: what was logged up to there. A logger that has more of this run drops it (it was logged
        by a process that was killed, and comes again), and one that has less takes these.
    """

    folder: Path | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: int = 0
    rows: Sequence[Row] = ()

    @functools.cached_property
    def id(self) -> str:
        """A name that no other run has; kept in the folder."""
        if self.folder is None:
            return uuid.uuid4().hex[:16]
        path = self.folder / ID
        if not path.exists():
            write_whole(path, uuid.uuid4().hex[:16] + "\n")
        return path.read_text().strip()


class Logger(Protocol):
    """Where rows of metrics go.

    In several processes process 0 alone has loggers. What `start` raises ends the run before its
    first step. What `log` or `close` raise ends the logger with a warning, and not the run.
    """

    def start(self, run: Run) -> None:
        """Begins, or goes on, before the first row of this process."""

    def log(self, step: int, values: Mapping[str, Value], kind: str) -> None:
        """Takes a row: of "train", "evaluation", "event" (of a hook) or another kind."""

    def close(self, stopped: str | None) -> None:
        """Ends; `stopped` says why the run did, and is `None` where an error ended it."""


def need(package: str, of: str, extra: str) -> None:
    """Refuses a logger whose package is not installed.

    >>> need("no_such_package", "MLflow", "mlflow")
    Traceback (most recent call last):
    ModuleNotFoundError: MLflow needs one package more: pip install 'trainkit[mlflow]'.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{of} needs one package more: pip install 'trainkit[{extra}]'.", name=package
        )


def split(row: Row) -> tuple[int, dict[str, Value], str]:
    """The arguments of `log`, from a whole row."""
    rest = {name: value for name, value in row.items() if name not in ("step", "kind")}
    return row["step"], rest, row["kind"]


def numbers(values: Mapping[str, Value], kind: str) -> dict[str, float]:
    """Those that are numbers, as charts name them: `train/loss`."""
    found = {name: value for name, value in values.items() if not isinstance(value, str)}
    return {f"{kind}/{name}": float(value) for name, value in found.items()}
