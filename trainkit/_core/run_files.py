"""The files of a run, by name, and how a row of metrics is written and read.

The loop writes them and the report reads them; neither needs to know the other.
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
# At the end of a name: what is not whole yet, and what is not whole any longer.
NEW, DAMAGED = ".new", ".damaged"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"

# What every row of the log has of its own, and what the loop adds to one of training.
ROW = ("step", "kind", "epoch", "examples", "flops", "seconds")
ADDED = ("examples_per_second", "compile_seconds")

# JSON has no numbers for these; the words are those of protobuf's JSON mapping.
_TO_WORD = {math.inf: "Infinity", -math.inf: "-Infinity"}
_FROM_WORD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all, in the place of whatever file is there.

    Neither a kill nor a full disk leaves half of it, and nothing is written through a link that
    somebody has put there.
    """
    with open_new(path) as file:
        file.write(text)
    Path(file.name).replace(path)


def remove(path: Path) -> None:
    """Removes what is there, if anything is: a file, a whole folder, or a link and nothing more."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_new(path: Path) -> IO[str]:
    """Opens the file that is to replace `path`, of its name with `NEW` at the end."""
    new = path.with_name(path.name + NEW)
    remove(new)
    return new.open("x", newline="", encoding="utf-8")


def encode_row(row: Mapping[str, Any]) -> Row:
    """A row as JSON holds it.

    >>> encode_row({"step": 1, "loss": float("nan")})
    {'step': 1, 'loss': 'NaN'}
    """
    return {name: _plain(name, value) for name, value in row.items()}


def decode_row(row: Mapping[str, Any]) -> Row:
    """The row that `encode_row` encoded."""
    return {k: _FROM_WORD.get(v, v) if isinstance(v, str) else v for k, v in row.items()}


def read_metrics(path: str | os.PathLike) -> list[Row]:
    """The rows of a `metrics.jsonl`, or of the one in a folder.

    A last line that a killed run left unfinished is passed over.
    """
    path = Path(path)
    path = path / JSONL if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path}; give the folder of a run, which has a file {JSONL}."
        )
    lines = path.read_text().splitlines(keepends=True)
    return [decode_row(json.loads(line)) for line in lines if line.endswith("\n")]


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; `{}` where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


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
