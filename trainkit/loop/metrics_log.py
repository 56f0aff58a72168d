"""Metrics on disk: JSONL and CSV always, TensorBoard where tensorboardX is installed.

The JSONL file is the truth. The CSV is made from it (so that its columns can grow), and both are
cut back to a checkpoint's position when a run is taken up again: rows that a killed run had
written after its last checkpoint are written again, once.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit._core.run_files import (
    CSV,
    JSONL,
    TENSORBOARD,
    Row,
    decode_row,
    encode_row,
    read_metrics,
)

START = {"bytes": 0, "rows": 0, "step": 0}


class MetricsLog:
    """Writes rows of metrics into a folder.

    A row is a flat mapping with an integer `step`, a `kind` ("train", "evaluation", …) and
    values that are numbers or strings.

    Args:
      folder: where `metrics.jsonl`, `metrics.csv` and `tensorboard/` go; made if need be.
      position: what `position` gave when the checkpoint was saved; everything after it is
        dropped. By default whatever is there is dropped.
      tensorboard: whether to write event files; by default where tensorboardX is installed.

    Raises:
      ValueError: the JSONL file is shorter than the position, so rows are missing.

    >>> import tempfile
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
        folder: str | os.PathLike,
        *,
        position: Mapping[str, int] | None = None,
        tensorboard: bool | None = None,
    ):
        installed = importlib.util.find_spec("tensorboardX") is not None
        if tensorboard and not installed:
            raise ValueError("TensorBoard was asked for: pip install tensorboardX")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        position = dict(START if position is None else position)
        path = self.folder / JSONL
        path.touch()
        if path.stat().st_size < position["bytes"]:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes, but the checkpoint was saved when it "
                f"had {position['bytes']}: rows have been removed. Put the file back, or start "
                "the run again with --overwrite."
            )
        os.truncate(path, position["bytes"])
        self._jsonl = path.open("ab")
        self._rows, self._step = position["rows"], position["step"]
        self._columns: list[str] = []
        self._csv: Any = None
        self._rewrite_csv(read_metrics(self.folder))
        self._board = self._open_board() if installed and tensorboard is not False else None

    def _open_board(self) -> Any:
        from tensorboardX import SummaryWriter

        # Event files cannot be cut; TensorBoard itself drops what it read from this step on.
        return SummaryWriter(str(self.folder / TENSORBOARD), purge_step=self._step + 1)

    @property
    def position(self) -> dict[str, int]:
        """What has been written so far, safely on disk: give it to the next `MetricsLog`."""
        self._jsonl.flush()
        os.fsync(self._jsonl.fileno())
        return {"bytes": self._jsonl.tell(), "rows": self._rows, "step": self._step}

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row to every format."""
        clean = encode_row(row)
        self._jsonl.write((json.dumps(clean, allow_nan=False) + "\n").encode())
        # A row is whole in the file before the next begins, so that it can be followed (tail -f).
        self._jsonl.flush()
        self._rows, self._step = self._rows + 1, max(self._step, int(clean["step"]))
        if set(clean) <= set(self._columns):
            self._write_csv_row(decode_row(clean))
            self._csv.flush()
        else:
            self._rewrite_csv(read_metrics(self.folder))
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(f"{clean['kind']}/{name}", value, int(clean["step"]))

    def _rewrite_csv(self, rows: list[Row]) -> None:
        if self._csv is not None:
            self._csv.close()
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        path, new = self.folder / CSV, self.folder / (CSV + ".new")
        self._csv = new.open("w", newline="")
        if self._columns:
            csv.writer(self._csv).writerow(self._columns)
        for row in rows:
            self._write_csv_row(row)
        self._csv.flush()
        # The open file goes on under its new name.
        new.replace(path)

    def _write_csv_row(self, row: Row) -> None:
        csv.writer(self._csv).writerow([row.get(name, "") for name in self._columns])

    def close(self) -> None:
        """Flushes and closes every file."""
        self._jsonl.close()
        self._csv.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
