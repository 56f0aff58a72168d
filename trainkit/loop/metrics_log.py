"""Metrics on disk: JSONL and CSV always, TensorBoard where tensorboardX is installed.

The JSONL file is the truth; without it a run stops. The others are made from it, and end where they
cannot be written any longer. The CSV is made from it (so that its columns can grow), and both are
cut back to a checkpoint's position when a run is taken up again: rows that a killed run had
written after its last checkpoint are written again, once.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.util
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainkit._core import validation
from trainkit._core.run_files import (
    CSV,
    DAMAGED,
    JSONL,
    TENSORBOARD,
    Row,
    decode_row,
    encode_row,
    open_new,
    read_metrics,
    remove,
    write_whole,
)

START = {"bytes": 0, "rows": 0, "step": 0, "digest": hashlib.blake2b(digest_size=16).hexdigest()}


class MetricsLog:
    """Writes rows of metrics into a folder.

    A row is a flat mapping with an integer `step`, a `kind` ("train", "evaluation", …) and
    values that are numbers or strings.

    Args:
      folder: where `metrics.jsonl`, `metrics.csv` and `tensorboard/` go; made if need be.
      position: what `position` gave when the checkpoint was saved; everything after it is
        dropped. By default whatever is there is dropped. If what comes before it is not what was
        written, the rows that can be read are kept, with a warning.
      tensorboard: whether to write event files; by default where tensorboardX is installed.

    Raises:
      OSError: the JSONL file cannot be written.

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
        position: Mapping[str, Any] | None = None,
        tensorboard: bool | None = None,
    ):
        installed = importlib.util.find_spec("tensorboardX") is not None
        if tensorboard and not installed:
            raise ValueError("TensorBoard was asked for: pip install tensorboardX")
        validation.path("folder", folder)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        position = {**START, **(position or {})}
        path = self.folder / JSONL
        try:
            content = self._left(path, position)
            self._jsonl = path.open("ab", buffering=0)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; rows go there", str(path)) from error
        self._digest = _digest_of(content)
        self._rows, self._step = position["rows"], position["step"]
        self._columns: list[str] = []
        self._ended: set[str] = set()
        self._csv: Any = None
        self._board: _Board | None = None
        with self._derived(CSV):
            self._rewrite_csv(read_metrics(self.folder))
        if installed and tensorboard is not False:
            with self._derived(TENSORBOARD):
                self._board = _Board(self.folder / TENSORBOARD, self._step + 1)

    def _left(self, path: Path, position: dict[str, Any]) -> bytes:
        """Cuts a log back to its position, or makes it anew of those rows that are left.

        Training needs no row, so that a log to which something happened is no reason to end a run.
        """
        if path.is_symlink():
            remove(path)  # nothing is written through it
        path.touch()
        content = path.read_bytes()[: position["bytes"]]
        if _digest_of(content).hexdigest() == position["digest"]:
            os.truncate(path, position["bytes"])
            return content
        wanted = position["rows"]
        rows = [line for line in content.splitlines(keepends=True) if _is_row(line, position)]
        damaged = path.with_name(path.name + DAMAGED)
        remove(damaged)
        path.rename(damaged)
        write_whole(path, b"".join(rows).decode())
        position["rows"] = len(rows)
        warnings.warn(
            f"{path} is not what this run had written: {len(rows)} of {wanted} rows are left, and "
            f"some may have been changed. What was there is kept as {damaged.name}. Training goes "
            "on exactly where it was.",
            stacklevel=3,
        )
        return path.read_bytes()

    @property
    def position(self) -> dict[str, Any]:
        """What has been written so far, safely on disk: give it to the next `MetricsLog`."""
        os.fsync(self._jsonl.fileno())
        return {
            "bytes": self._jsonl.tell(),
            "rows": self._rows,
            "step": self._step,
            "digest": self._digest.hexdigest(),
        }

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row to every format."""
        for name, what in (("step", "an integer"), ("kind", "a string")):
            if name not in row:
                raise ValueError(f"a row must have {name!r}, {what}, not {', '.join(row)} alone.")
        clean = encode_row(row)
        self._append((json.dumps(clean, allow_nan=False) + "\n").encode())
        self._rows, self._step = self._rows + 1, max(self._step, int(clean["step"]))
        if CSV not in self._ended:
            with self._derived(CSV):
                if set(clean) <= set(self._columns):
                    self._write_csv_row(decode_row(clean))
                    self._csv.flush()
                else:
                    self._rewrite_csv(read_metrics(self.folder))
        if self._board is not None and TENSORBOARD not in self._ended:
            with self._derived(TENSORBOARD):
                self._board.write(row)

    def _append(self, line: bytes) -> None:
        """A row is whole in the file, before the next begins, or it is not there."""
        place, rest = self._jsonl.tell(), line
        try:
            while rest:
                rest = rest[self._jsonl.write(rest) :]
        except OSError as error:
            os.ftruncate(self._jsonl.fileno(), place)
            why = f"{error.strerror}; the run ends here and can go on once rows can be written"
            raise OSError(error.errno, why, str(self.folder / JSONL)) from error
        self._digest.update(line)

    @contextlib.contextmanager
    def _derived(self, name: str) -> Iterator[None]:
        """What is made from the rows is no reason to lose a run: it ends where it fails."""
        try:
            yield
        except OSError as error:
            self._ended.add(name)
            warnings.warn(f"{self.folder / name} ends here: {error.strerror}.", stacklevel=2)

    def _rewrite_csv(self, rows: list[Row]) -> None:
        if self._csv is not None:
            self._csv.close()
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        self._csv = open_new(self.folder / CSV)
        if self._columns:
            csv.writer(self._csv).writerow(self._columns)
        for row in rows:
            self._write_csv_row(row)
        self._csv.flush()
        # The open file goes on under its new name.
        Path(self._csv.name).replace(self.folder / CSV)

    def _write_csv_row(self, row: Row) -> None:
        csv.writer(self._csv).writerow([row.get(name, "") for name in self._columns])

    def close(self) -> None:
        """Flushes and closes every file."""
        self._jsonl.close()
        with self._derived(CSV):
            if self._csv is not None:
                self._csv.close()
        with self._derived(TENSORBOARD):
            if self._board is not None:
                self._board.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_row(line: bytes, position: Mapping[str, Any]) -> bool:
    """Whether a line is a row of those that were there at a position."""
    try:
        row = json.loads(line.decode())  # of bytes JSON would guess the encoding
        return line.endswith(b"\n") and row["step"] <= position["step"] and "kind" in row
    except (ValueError, TypeError, KeyError):
        return False


def _digest_of(content: bytes) -> Any:
    return hashlib.blake2b(content, digest_size=16)


class _Board:
    """TensorBoard's files, written from the caller's own thread.

    tensorboardX's SummaryWriter has a thread and a short queue: once the thread has died, as of a
    full disk, whoever puts something into the queue waits for ever.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        # Event files cannot be cut; TensorBoard itself drops what it read from this step on.
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(step=step, wall_time=time.time(), session_log=start))
        self._file.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """A scalar for each number of a row."""
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                summary = self._scalar(f"{row['kind']}/{name}", value)
                step, now = int(row["step"]), time.time()
                self._file.write_event(self._event(step=step, wall_time=now, summary=summary))
        self._file.flush()

    def close(self) -> None:
        self._file.close()
