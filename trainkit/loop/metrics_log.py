"""The rows of a run: its own file, and all that is made from them.

The JSONL file in the folder is the truth; without it a run stops. Every other logger, the CSV file
and TensorBoard's included, is given its rows and ends where it fails. What a killed process had
logged after its last checkpoint is cut back, and logged again, once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit._core import validation
from trainkit._core.run_files import CSV as CSV_FILE
from trainkit._core.run_files import JSONL as JSONL_FILE
from trainkit._core.run_files import TENSORBOARD, Row, decode_row, encode_row
from trainkit.loggers.jsonl import JSONL
from trainkit.loggers.logger import Logger, Run, split
from trainkit.loggers.table import CSV
from trainkit.loggers.tensorboard import TensorBoard


class MetricsLog:
    """Writes rows of metrics into a folder, and gives them to loggers.

    A row is a flat mapping with an integer `step`, a `kind` ("train", "evaluation", …) and
    values that are numbers or strings.

    Args:
      folder: where `metrics.jsonl`, `metrics.csv` and `tensorboard/` go; made if need be. `None`
        writes nothing, and is for loggers alone.
      position: what `position` gave when the checkpoint was saved; everything after it is
        dropped. By default whatever is there is dropped. If what comes before it is not what was
        written, the rows that can be read are kept, with a warning.
      tensorboard: whether to write event files; by default where tensorboardX is installed.
      loggers: of the user.
      config, step: what they are told of the run.

    Raises:
      OSError: the JSONL file cannot be written.

    >>> import tempfile
    >>> from trainkit._core.run_files import read_metrics
    >>> folder = tempfile.mkdtemp()
    >>> with MetricsLog(folder, tensorboard=False) as log:
    ...     log.write({"step": 1, "kind": "train", "loss": 0.5})
    ...     place = log.position
    ...     log.write({"step": 2, "kind": "train", "loss": float("nan")})
    >>> [row["loss"] for row in read_metrics(folder)]
    [0.5, nan]
    >>> MetricsLog(folder, position=place, tensorboard=False).close()
    >>> [row["step"] for row in read_metrics(folder)]
    [1]
    """

    def __init__(
        self,
        folder: str | os.PathLike | None,
        *,
        position: Mapping[str, Any] | None = None,
        tensorboard: bool | None = None,
        loggers: Sequence[Logger] = (),
        config: Mapping[str, Any] | None = None,
        step: int = 0,
    ):
        self._truth: JSONL | None = None
        self._loggers: list[Logger] = []
        rows: list[Row] = []
        place = None
        if folder is not None:
            validation.path("folder", folder)
            place = Path(folder)
            own = _own(place, tensorboard)
            place.mkdir(parents=True, exist_ok=True)
            self._truth = JSONL(place / JSONL_FILE)
            rows = self._truth.take_up(position)
        run = Run(place, config or {}, step, rows)
        if place is not None:
            for logger in own:
                self._loggers.append(logger)
                with self._guarded(logger):
                    logger.start(run)
        try:
            for logger in loggers:
                logger.start(run)
                self._loggers.append(logger)
        except BaseException:
            self.close()
            raise

    @property
    def position(self) -> dict[str, Any] | None:
        """What has been written so far, safely on disk: give it to the next `MetricsLog`."""
        return None if self._truth is None else self._truth.position

    def write(self, row: Mapping[str, Any]) -> None:
        """Gives one row to every logger."""
        for name, what in (("step", "an integer"), ("kind", "a string")):
            if name not in row:
                raise ValueError(f"a row must have {name!r}, {what}, not {', '.join(row)} alone.")
        clean = decode_row(encode_row(row)) if self._truth is None else self._truth.append(row)
        step, values, kind = split(clean)
        for logger in list(self._loggers):
            with self._guarded(logger):
                logger.log(step, values, kind)

    @contextlib.contextmanager
    def _guarded(self, logger: Logger) -> Iterator[None]:
        """What is made from the rows is no reason to lose a run: it ends where it fails."""
        try:
            yield
        except Exception as error:
            self._loggers.remove(logger)
            name = getattr(logger, "path", type(logger).__name__)
            why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            warnings.warn(f"{name} ends here: {why.rstrip('.')}.", stacklevel=2)
            with contextlib.suppress(Exception):
                logger.close(None)

    def close(self, stopped: str | None = None) -> None:
        """Ends every logger; `stopped` says why the run did."""
        if self._truth is not None:
            self._truth.close(stopped)
        while self._loggers:
            with self._guarded(self._loggers[-1]):
                self._loggers[-1].close(stopped)
                self._loggers.pop()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _own(folder: Path, tensorboard: bool | None) -> list[Logger]:
    own: list[Logger] = [CSV(folder / CSV_FILE)]
    if tensorboard is None:
        tensorboard = importlib.util.find_spec("tensorboardX") is not None
    return [*own, TensorBoard(folder / TENSORBOARD)] if tensorboard else own
