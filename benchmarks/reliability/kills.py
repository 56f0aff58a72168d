"""Trials: a killed run resumes, and its result is bitwise that of the undisturbed run."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.reliability.aims import AIMS
from benchmarks.reliability.children import END, LIMIT, Done, beside, child
from benchmarks.reliability.undisturbed import Undisturbed
from benchmarks.reliability.verdicts import verdict

RUNS = ("plain", "growing", "plain", "plain", "reported", "plain")
# A user's experiment, which calls one of our programs.
EXPERIMENT = '''\
"""A run that is killed."""

import dataclasses
import json
import pathlib

import jax

from benchmarks.reliability.programs import plain


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained."""

    out: str = "run"


def run(config):
    jax.config.update("jax_compilation_cache_dir", "../cache")
    found = plain(pathlib.Path(config.out))
    here = pathlib.Path.cwd()
    here.with_name(here.name + ".end").write_text(json.dumps(found))
'''


def killed(seed: int, folder: Path, runs: Undisturbed) -> tuple[str, str]:
    """Kills a run at one to three random instants."""
    draw, out, run = random.Random(seed), folder / "run", RUNS[seed % len(RUNS)]
    for _ in range(draw.randrange(1, 4)):
        if not child(out, run, kill_after=draw.uniform(0, 1.1) * runs.seconds(run)).killed:
            break
    return f"at random instants: {run}", verdict(child(out, run), out, runs.end(run))


def aimed(seed: int, folder: Path, runs: Undisturbed) -> tuple[str, str]:
    """Kills a run inside a function, in each of two sessions."""
    draw, out = random.Random(seed), folder / "run"
    where = list(AIMS)[seed % len(AIMS)]
    aim = AIMS[where]
    if aim.taken_up:
        shutil.copytree(runs.stopped(aim.run) / "run", out)
    struck = False
    for _ in range(2):
        strike = draw.choice(aim.kills)
        struck |= child(out, aim.run, aim=(where, draw.randrange(aim.calls) + 1, strike)).killed
    end = runs.end(aim.run)
    return where if struck else f"missed: {where}", verdict(child(out, aim.run), out, end)


def commanded(seed: int, folder: Path, runs: Undisturbed) -> tuple[str, str]:
    """Kills the command `trainkit train` at random instants, and repeats it."""
    draw = random.Random(seed)
    home = folder / "experiments" / "measured"
    home.mkdir(parents=True)
    (home / "train.py").write_text(EXPERIMENT)
    for _ in range(draw.randrange(1, 3)):
        if not _command(folder, draw.uniform(0, 1.1) * runs.seconds("plain")).killed:
            break
    return "`trainkit train`", verdict(_command(folder), folder / "run", runs.end("plain"))


def _command(folder: Path, kill_after: float | None = None) -> Done:
    """Runs the command in a folder; `kill_after` counts from the start of training."""
    beside(folder / "run", END).write_text("")
    command, log = [sys.executable, "-m", "trainkit", "train", "measured"], folder / "run/.lock"
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        if kill_after is None:
            process.wait(4 * LIMIT)
        else:
            while process.poll() is None and not log.exists():
                time.sleep(0.01)
            time.sleep(kill_after)
            process.kill()
            process.wait()
        said.seek(0)
        return Done(process.returncode, said.read())
