"""Trials: a checkpoint of a stopped run is damaged, and the run goes on."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from benchmarks.reliability.run import child, verdict


def files(step: Path) -> list[Path]:
    return sorted(file for file in step.rglob("*") if file.is_file())


def flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes()) or bytearray(b"x")
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def swap(one: Path, other: Path) -> None:
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b), other.write_bytes(a)


def exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside), other.rename(one), aside.rename(other)


DAMAGE = {
    "a bit flipped": lambda step, old, draw: flip(draw.choice(files(step)), draw),
    "a bit flipped in the largest file": lambda step, old, draw: flip(
        max(files(step), key=lambda f: f.stat().st_size), draw
    ),
    "a file cut": lambda step, old, draw: (
        os.truncate(f := draw.choice(files(step)), draw.randrange(f.stat().st_size + 1))
    ),
    "a file emptied": lambda step, old, draw: draw.choice(files(step)).write_bytes(b""),
    "a file deleted": lambda step, old, draw: draw.choice(files(step)).unlink(),
    "a part deleted": lambda step, old, draw: shutil.rmtree(
        step / draw.choice(["state", "info"])
    ),
    "emptied": lambda step, old, draw: [shutil.rmtree(step), step.mkdir()],
    "deleted": lambda step, old, draw: shutil.rmtree(step),
    "two files swapped": lambda step, old, draw: swap(*draw.sample(files(step), 2)),
    "swapped with an older step": lambda step, old, draw: exchange(step, old),
    "the arrays of an older step": lambda step, old, draw: exchange(step / "state", old / "state"),
    "under a later name": lambda step, old, draw: step.rename(step.with_name("58")),
    "half written": lambda step, old, draw: step.rename(
        step.with_name(f"{step.name}.orbax-checkpoint-tmp")
    ),
    "the older step damaged too": lambda step, old, draw: [
        flip(draw.choice(files(step)), draw), flip(draw.choice(files(old)), draw)
    ],
}  # fmt: skip


def corrupted(seed: int, folder: Path, expected: dict) -> tuple[str, str]:
    """The checkpoints of a run that was stopped, damaged; each run is stopped at step 50."""
    draw, out = random.Random(seed), folder / "run"
    shutil.copytree(folder.parent / "stopped" / "run", out)
    steps = sorted((int(f.name), f) for f in (out / "checkpoints").iterdir() if f.name.isdigit())
    (_, old), (_, step) = steps[-2:]
    damage = list(DAMAGE)[seed % len(DAMAGE)]
    DAMAGE[damage](step, old, draw)
    return damage, verdict(out, child(out), expected)
