"""`summary.json`: how a run ended and what it was made with, for people and for scripts."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from trainkit._core.run_files import SUMMARY, write_whole
from trainkit._core.versions import devices, versions
from trainkit.loop.record import FitResult
from trainkit.loop.run_folder import RunFolder


def write_summary(folder: RunFolder, result: FitResult) -> Path:
    """Writes the summary of a run into its folder."""
    content = {
        "stopped": result.stopped,
        "steps": result.steps,
        "epochs": result.epochs,
        "examples": result.examples,
        "flops": result.flops,
        "seconds": result.seconds,
        "metrics": dict(result.metrics),
        "evaluation": dict(result.evaluation),
        "best": {
            "step": result.best.step,
            "value": result.best.value,
            "metrics": dict(result.best.metrics),
        },
        "config": folder.config,
        "versions": versions(),
        "devices": devices(),
        "command": command(),
    }
    path = folder.path / SUMMARY
    write_whole(path, json.dumps(_finite(content), indent=2) + "\n")
    return path


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
