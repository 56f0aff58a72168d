"""Rows in a JSONL file: the one in a run's folder is the truth, which others are made from."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit._core import validation
from trainkit._core.run_files import (
    DAMAGED,
    Row,
    decode_row,
    encode_row,
    read_metrics,
    remove,
    write_whole,
)
from trainkit.loggers.logger import Run, Value

START = {"bytes": 0, "rows": 0, "step": 0, "digest": hashlib.blake2b(digest_size=16).hexdigest()}


class JSONL:
    """Appends rows to a file, a JSON object each.

    Args:
      path: of the file. Where a run goes on, it is written anew from the rows of the run.
    """

    def __init__(self, path: str | os.PathLike):
        validation.path("path", path)
        self.path = Path(path)

    def start(self, run: Run) -> None:
        """Writes the rows there are, and opens the file for more."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps(encode_row(row), allow_nan=False) + "\n" for row in run.rows]
        write_whole(self.path, "".join(rows))
        self._open(b"", START)

    def take_up(self, position: Mapping[str, Any] | None) -> list[Row]:
        """Cuts the file back to what `position` was, and gives the rows that are left."""
        place = {**START, **(position or {})}
        try:
            self._open(self._left(place), place)
        except OSError as error:
            why = f"{error.strerror}; rows go there"
            raise OSError(error.errno, why, str(self.path)) from error
        return read_metrics(self.path)

    def _open(self, content: bytes, place: Mapping[str, Any]) -> None:
        self._file = self.path.open("ab", buffering=0)
        self._digest = _digest_of(content)
        self._rows, self._step = place["rows"], place["step"]

    def _left(self, position: dict[str, Any]) -> bytes:
        """Cuts a log back to its position, or makes it anew of those rows that are left.

        Training needs no row, so that a log to which something happened is no reason to end a run.
        """
        path = self.path
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
            stacklevel=4,
        )
        return path.read_bytes()

    @property
    def position(self) -> dict[str, Any]:
        """What has been written so far, safely on disk."""
        os.fsync(self._file.fileno())
        return {
            "bytes": self._file.tell(),
            "rows": self._rows,
            "step": self._step,
            "digest": self._digest.hexdigest(),
        }

    def log(self, step: int, values: Mapping[str, Value], kind: str) -> None:
        """Appends a row."""
        self.append({"step": step, "kind": kind, **values})

    def append(self, row: Mapping[str, Any]) -> Row:
        """Appends a row, and gives it as reading the file would."""
        clean = encode_row(row)
        self._append((json.dumps(clean, allow_nan=False) + "\n").encode())
        self._rows, self._step = self._rows + 1, max(self._step, int(clean["step"]))
        return decode_row(clean)

    def _append(self, line: bytes) -> None:
        """A row is whole in the file, before the next begins, or it is not there."""
        place, rest = self._file.tell(), line
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            os.ftruncate(self._file.fileno(), place)
            why = f"{error.strerror}; the run ends here and can go on once rows can be written"
            raise OSError(error.errno, why, str(self.path)) from error
        self._digest.update(line)

    def close(self, stopped: str | None) -> None:
        """Closes the file."""
        self._file.close()


def _is_row(line: bytes, position: Mapping[str, Any]) -> bool:
    """Whether a line is a row of those that were there at a position."""
    try:
        row = json.loads(line.decode())  # of bytes JSON would guess the encoding
        return line.endswith(b"\n") and row["step"] <= position["step"] and "kind" in row
    except (ValueError, TypeError, KeyError):
        return False


def _digest_of(content: bytes) -> Any:
    return hashlib.blake2b(content, digest_size=16)
