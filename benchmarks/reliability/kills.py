"""Trials: a run that is killed goes on, and ends bitwise where the undisturbed one does."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from benchmarks.reliability.aims import AIMS
from benchmarks.reliability.run import child, verdict


def killed(seed: int, folder: Path, expected: dict) -> tuple[str, str]:
    """Killed at random instants, of those in which it trains, until it ends."""
    draw, out = random.Random(seed), folder / "run"
    for _ in range(draw.randrange(1, 4)):
        if child(out, kill_after=draw.uniform(1.5, 6.0)).returncode == 0:
            break
    return "at a random instant", verdict(out, child(out), expected)


def aimed(seed: int, folder: Path, expected: dict) -> tuple[str, str]:
    draw, out = random.Random(seed), folder / "run"
    where = list(AIMS)[seed % len(AIMS)]
    ends = [child(out, where, str(draw.randrange(1, 5))) for _ in range(2)]
    struck = any(end.returncode == -signal.SIGKILL for end in ends)
    return where if struck else f"{where}: missed", verdict(out, child(out), expected)
