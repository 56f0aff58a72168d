"""`summary.json`: how a run ended and what it was made with, for people and for scripts.

It is there from the beginning, with the outcome "running", so that whoever reads a folder can tell
a run that was killed from one that has ended.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit._core.run_files import SUMMARY, commands_of, write_whole
from trainkit._core.versions import devices, versions
from trainkit.loop.record import Record
from trainkit.loop.run_folder import RunFolder
from trainkit.loop.stopping import Budget


def write_summary(
    folder: RunFolder,
    record: Record,
    budget: Budget,
    outcome: str,
    stopped: str | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Writes the summary of a run into its folder.

    Args:
      folder: of the run.
      record: what it has used and seen.
      budget: its limits.
      outcome: "running", "finished", "interrupted" or "not finite".
      stopped: why it ended, in words.
      metrics: of its last step.
    """
    content = {
        "outcome": outcome,
        "stopped": stopped,
        **record.used,
        "budget": budget.limits,
        "metrics": dict(record.train if metrics is None else metrics),
        "evaluation": dict(record.evaluation),
        "best": {
            "step": record.best.step,
            "value": record.best.value,
            "metrics": dict(record.best.metrics),
        },
        "config": folder.config,
        "versions": versions(),
        "devices": devices(),
        "command": command(),
    }
    path = folder.path / SUMMARY
    content["commands"] = _with_those_before(path, content["command"])
    write_whole(path, json.dumps(_finite(content), indent=2) + "\n")
    return path


def _with_those_before(path: Path, now: str) -> list[str]:
    """The commands of a run, from its beginning; one that was given again is there once."""
    earlier: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        there = json.loads(path.read_text(encoding="utf-8"))
        earlier = commands_of(there) if isinstance(there, dict) else []
    return earlier if earlier[-1:] == [now] else [*earlier, now]


def command() -> str:
    """The command line that this process was started with, as one would type it again."""
    program, *arguments = sys.argv or [""]
    if os.path.basename(program) == "__main__.py":
        start = ["python", "-m", os.path.basename(os.path.dirname(program))]
    elif program.endswith(".py"):
        start = ["python", program]
    else:
        start = [os.path.basename(program) or "python"]
    return shlex.join(start + arguments)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
