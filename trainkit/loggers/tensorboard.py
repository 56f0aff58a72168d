"""TensorBoard's event files, written with tensorboardX."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit._core import validation
from trainkit.loggers.logger import Run, Value, need, numbers, split


class TensorBoard:
    """A scalar for each number of a row, written from the caller's own thread.

    tensorboardX's SummaryWriter has a thread and a short queue: once the thread has died, as of a
    full disk, whoever puts something into the queue waits for ever.

    Args:
      path: the folder of the event files.

    Raises:
      ModuleNotFoundError: tensorboardX is not installed.
    """

    def __init__(self, path: str | os.PathLike):
        validation.path("path", path)
        need("tensorboardX", "TensorBoard", "tensorboard")
        self.path = Path(path)
        self._file: Any = None

    def start(self, run: Run) -> None:
        """Opens a new file."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        # It warns of every NaN; the run says itself that something is not finite.
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
        self._event, self._scalar = Event, scalar
        self.path.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(self.path / "events"), f".{time.time_ns()}")
        # Event files cannot be cut; TensorBoard itself drops what it read from this step on.
        step = run.rows[-1]["step"] if run.rows else 0
        start = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(step=step, wall_time=time.time(), session_log=start))
        self._file.flush()
        for row in run.rows:
            if row["step"] == step:
                self.log(*split(row))

    def log(self, step: int, values: Mapping[str, Value], kind: str) -> None:
        """Writes a scalar for each number."""
        now = time.time()
        for name, value in numbers(values, kind).items():
            summary = self._scalar(name, value)
            self._file.write_event(self._event(step=step, wall_time=now, summary=summary))
        self._file.flush()

    def close(self, stopped: str | None) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
