"""Trials: something in the folder of a stopped run is damaged, and the run is resumed.

Targets are the checkpoints, the run's record, its metrics and its lock. All files have the same
list of damages; whole checkpoints have another.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability.children import NOBODY, child
from benchmarks.reliability.programs import PROGRAMS
from benchmarks.reliability.undisturbed import Undisturbed
from benchmarks.reliability.verdicts import EQUAL, FAILED, REFUSED, verdict

Draw = random.Random
VICTIM = "victim"


def flip(file: Path, draw: Draw) -> None:
    """Flips one bit."""
    content = bytearray(file.read_bytes()) or bytearray(b"x")
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def cut(file: Path, draw: Draw) -> None:
    """Removes the end."""
    os.truncate(file, draw.randrange(file.stat().st_size or 1))


def prolong(file: Path, draw: Draw) -> None:
    """Appends other bytes."""
    with file.open("ab") as whole:
        whole.write(draw.randbytes(draw.randrange(1, 100)))


def make_half(file: Path, draw: Draw) -> None:
    """Leaves an incomplete new version."""
    content = file.read_bytes()
    file.with_name(file.name + ".new").write_bytes(content[: len(content) // 2])


def make_link(file: Path, draw: Draw) -> None:
    """Replaces it by a link to another user's file."""
    home = next(folder for folder in file.parents if folder.name in ("run", PROGRAMS))
    victim = home.with_name(VICTIM)
    file.rename(victim)
    file.symlink_to(victim)


def make_folder(file: Path, draw: Draw) -> None:
    """Replaces it by a folder."""
    file.unlink()
    file.mkdir()


def swap(one: Path, draw: Draw) -> None:
    """It has the content of another file beside it or further down, and that one has its.

    Not of a checkpoint where it is none of one itself: that damages the checkpoint as well.
    """
    folder = one.parent
    other = draw.choice(
        [f for f in files(folder) if f.relative_to(folder).parts[0] != "checkpoints"]
    )
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def exchange(one: Path, other: Path) -> None:
    """Exchanges the names of two files or folders."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def files(folder: Path) -> list[Path]:
    """All non-empty files under a folder."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


# Damages to any file.
DAMAGE: dict[str, Callable[[Path, Draw], object]] = {
    "a bit flipped": flip,
    "cut": cut,
    "emptied": lambda file, draw: file.write_bytes(b""),
    "prolonged": prolong,
    "deleted": lambda file, draw: file.unlink(),
    "renamed": lambda file, draw: file.rename(file.with_name(file.name + ".bak")),
    "half written anew": make_half,
    "swapped with another": swap,
    "a link in its place": make_link,
    "a folder in its place": make_folder,
    "without permission": lambda file, draw: file.chmod(0),
}
# The files: of the run's folder, and of its newest and an older step.
TARGETS: dict[str, Callable[[Path, Path, Path, Draw], Path]] = {
    "a file of the newest step": lambda out, step, old, draw: draw.choice(files(step)),
    "its largest file": lambda out, step, old, draw: max(files(step), key=_size),
    "its info": lambda out, step, old, draw: step / "info" / "0.json",
    "a file of an older step": lambda out, step, old, draw: draw.choice(files(old)),
    "config.json": lambda out, step, old, draw: out / "config.json",
    "metrics.jsonl": lambda out, step, old, draw: out / "metrics.jsonl",
    "metrics.csv": lambda out, step, old, draw: out / "metrics.csv",
    "the lock": lambda out, step, old, draw: out / ".lock",
    "a file of TensorBoard": lambda out, step, old, draw: draw.choice(files(out / "tensorboard")),
    "a compiled program": lambda out, step, old, draw: max(files(out.parent / PROGRAMS), key=_size),
}
# Damages to a whole step.
STEP_DAMAGE: dict[str, Callable[[Path, Path, Draw], object]] = {
    "without its state": lambda step, old, draw: shutil.rmtree(step / "state"),
    "without its info": lambda step, old, draw: shutil.rmtree(step / "info"),
    "emptied": lambda step, old, draw: [shutil.rmtree(step), step.mkdir()],
    "deleted": lambda step, old, draw: shutil.rmtree(step),
    "swapped with an older one": lambda step, old, draw: exchange(step, old),
    "with the arrays of an older one": lambda step, old, draw: exchange(
        step / "state", old / "state"
    ),
    "with the info of an older one": lambda step, old, draw: exchange(step / "info", old / "info"),
    "under a later name": lambda step, old, draw: step.rename(step.with_name("58")),
    "copied under a later name": lambda step, old, draw: shutil.copytree(
        step, step.with_name("58")
    ),
    "half written": lambda step, old, draw: step.rename(
        step.with_name(f"{step.name}.orbax-checkpoint-tmp")
    ),
    "half deleted": lambda step, old, draw: [f.unlink() for f in files(step)[::2]],
    "a file in its place": lambda step, old, draw: [shutil.rmtree(step), step.write_text("x")],
    "without permission": lambda step, old, draw: step.chmod(0),
    "damaged, and an older one too": lambda step, old, draw: [
        flip(step / "info" / "0.json", draw), flip(old / "info" / "0.json", draw)
    ],
}  # fmt: skip
ALL = [*((target, damage) for target in TARGETS for damage in DAMAGE)]
ALL += [("the newest step", damage) for damage in STEP_DAMAGE]


def corrupted(seed: int, folder: Path, runs: Undisturbed) -> tuple[str, str]:
    """One damage to one target; then resumes a run that was stopped at step 50."""
    draw, out = random.Random(seed), folder / "run"
    target, damage = ALL[seed % len(ALL)]
    run = "compiled" if target == "a compiled program" else "plain"
    shutil.copytree(runs.stopped(run), folder, dirs_exist_ok=True)
    steps = sorted((int(f.name), f) for f in (out / "checkpoints").iterdir() if f.name.isdigit())
    (oldest, _), (older, old), (newest, step) = steps[-3:]
    _give(folder, NOBODY)
    if target in TARGETS:
        file = TARGETS[target](out, step, old, draw)
        before = file.read_bytes()
        DAMAGE[damage](file, draw)
    else:
        STEP_DAMAGE[damage](step, old, draw)
    done = child(out, run, uid=NOBODY if os.getuid() == 0 else None)
    found = verdict(done, out, runs.end(run))
    if damage == "a link in its place" and (folder / VICTIM).read_bytes() != before:
        found = f"{FAILED}: it wrote through a link"
    at = re.findall(r"Going on at step ([\d,]*\d)", done.said)
    allowed = {oldest} if damage in BOTH else {newest} if target in UNTOUCHED else {newest, older}
    if found == EQUAL and (not at or int(at[0].replace(",", "")) not in allowed):
        found = f"{FAILED}: it went on at {at}, not at {allowed}"
    if found.startswith(REFUSED) and target not in MAY_BE_REFUSED:
        found = found.replace(REFUSED, f"{FAILED}: though a state is whole", 1)
    return f"{target}: {damage}", found


MAY_BE_REFUSED = ("config.json", "metrics.jsonl", "the lock")
BOTH = [damage for damage in STEP_DAMAGE if "an older one" in damage]
UNTOUCHED = [target for target in TARGETS if target not in list(TARGETS)[:3]]


def _give(folder: Path, uid: int) -> None:
    """Changes the owner of everything under a folder, if permitted."""
    if os.getuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, uid, uid)


def _size(file: Path) -> int:
    return file.stat().st_size
