"""The names of a run's files, and the encoding of rows of metrics.

The loop writes these files, and the report reads them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]

CONFIG, SUMMARY, REPORT, LOCK = "config.json", "summary.json", "report.html", ".lock"
JSONL, CSV = "metrics.jsonl", "metrics.csv"
ID = "id.txt"  # by which services know a run
# Suffixes of incomplete and of damaged files.
NEW, DAMAGED = ".new", ".damaged"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"

# Names in every row of the log, and names that the loop adds to a row of training metrics.
ROW = ("step", "kind", "epoch", "examples", "flops", "seconds")
ADDED = ("examples_per_second", "compile_seconds")

# JSON has no numbers for these; the words are those of protobuf's JSON mapping.
_TO_WORD = {math.inf: "Infinity", -math.inf: "-Infinity"}
_FROM_WORD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def write_whole(path: Path, text: str) -> None:
    """Writes a file atomically, and replaces an existing one.

    A kill or a full disk never leaves an incomplete file. It does not write through a symbolic
    link.
    """
    with open_new(path) as file:
        file.write(text)
    Path(file.name).replace(path)


def remove(path: Path) -> None:
    """Removes a file, a folder with its content, or a link (not its target), if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_new(path: Path) -> IO[str]:
    """Opens a new file, named like `path` with the suffix `NEW`, that will replace `path`."""
    new = path.with_name(path.name + NEW)
    remove(new)
    return new.open("x", newline="", encoding="utf-8")


def in_use(folder: Path) -> bool:
    """Whether a process trains in a folder; false where that cannot be told."""
    try:
        import fcntl

        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # no locks here, or no lock
        return False
    return False


def encode_row(row: Mapping[str, Any]) -> Row:
    """A row as JSON values; NaN and infinities become strings.

    >>> encode_row({"step": 1, "loss": float("nan")})
    {'step': 1, 'loss': 'NaN'}
    """
    return {name: _plain(name, value) for name, value in row.items()}


def decode_row(row: Mapping[str, Any]) -> Row:
    """The inverse of `encode_row`."""
    return {k: _FROM_WORD.get(v, v) if isinstance(v, str) else v for k, v in row.items()}


def read_metrics(path: str | os.PathLike) -> list[Row]:
    """The rows of a `metrics.jsonl`, or of the one in a folder.

    An incomplete last line, left by a killed run, is ignored.
    """
    path = Path(path)
    path = path / JSONL if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path}; give the folder of a run, which has a file {JSONL}."
        )
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [decode_row(json.loads(line)) for line in lines if line.endswith("\n")]


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; `{}` if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, str | bool | int):
        return value
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"the value {name!r} of a row must be a number or a string, not {value!r}."
        ) from None
    return "NaN" if math.isnan(value) else _TO_WORD.get(value, value)


def commands_of(summary: Mapping[str, Any]) -> list[str]:
    """The commands of a run that a summary names, in their order."""
    last = summary.get("command")
    return list(summary.get("commands") or ([last] if last else []))
