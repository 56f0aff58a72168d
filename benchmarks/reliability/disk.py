"""Trials: the disk is full from one write on; a run continues, or stops and resumes later."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.aims import AIMS, BALLAST
from benchmarks.reliability.children import child
from benchmarks.reliability.undisturbed import Undisturbed
from benchmarks.reliability.verdicts import EQUAL, FILE_SAID, is_ours, verdict

SIZE = "6m"


def filled(seed: int, folder: Path, runs: Undisturbed) -> tuple[str, str]:
    """Runs on a file system of a few megabytes that is full at one call of one function."""
    draw = random.Random(seed)
    where = list(AIMS)[seed % len(AIMS)]
    aim, call = AIMS[where], draw.randrange(AIMS[where].calls) + 1
    with mounted(folder):
        out, end = folder / "run", runs.end(aim.run)
        if aim.taken_up:
            shutil.copytree(runs.stopped(aim.run) / "run", out)
        done = child(out, aim.run, aim=(where, call, "full"))
        full = (folder / BALLAST).exists()
        (folder / BALLAST).unlink(missing_ok=True)
        what = f"{where}: it {'went on' if done.status == 0 else 'stopped'}" if full else "missed"
        found = verdict(done, out, end) if done.status == 0 else EQUAL
        if done.status and not is_ours(done.said):
            found = f"FAILED: {done.said.strip().splitlines()[-1][:200]}"
        if found in (EQUAL, FILE_SAID):
            found = verdict(child(out, aim.run), out, end)
        return what, found


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A context with a small file system at a folder; does nothing without the right to mount."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
