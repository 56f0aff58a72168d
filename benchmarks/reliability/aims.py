"""The functions (of ours, Orbax, JAX) in which a trial kills a process or fills the disk."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability import programs  # noqa: F401  (patched functions must be imported)

# The file that fills the disk, beside the folder of the run.
BALLAST = "ballast"


@dataclasses.dataclass(frozen=True)
class Aim:
    """A function in which a trial strikes.

    Attributes:
      owner: its module or class.
      name: its name.
      run: the program that calls it.
      half: does half of its work, with its arguments, for a strike half way.
      taken_up: whether to strike in a resumed run, not in a new one.
      calls: the least number of calls in a run.
    """

    owner: str
    name: str
    run: str = "plain"
    half: Callable[..., Any] | None = None
    taken_up: bool = False
    calls: int = 4

    @property
    def kills(self) -> list[str]:
        """The kinds of kills."""
        return ["before", "after", *(["half way"] if self.half else [])]


def half_deleted(folder: Any, *_: Any, **__: Any) -> None:
    """Removes three of its files."""
    for file in [file for file in Path(folder).rglob("*") if file.is_file()][:3]:
        file.unlink()


def half_written(log: Any, line: bytes) -> None:
    """Writes half of a row."""
    log._file.write(line[: len(line) // 2])


LOG = "trainkit.loggers.jsonl.JSONL"
SWITCH = "trainkit.progressive.transition.switch.Transition"
HOOK = "trainkit.progressive.hook.Growing"
AIMS: dict[str, Aim] = {
    "writing the info of a step": Aim("trainkit.loop.saved.info", "write_info"),
    "copying a state to save": Aim("trainkit.loop.checkpoint", "all_on_host"),
    "finishing a step": Aim("os", "rename"),
    "moving a step away": Aim("os", "replace"),
    "deleting a step": Aim("shutil", "rmtree", half=half_deleted),
    "noting that it has saved": Aim("trainkit.loop.run_folder.RunFolder", "saved"),
    "evaluating": Aim("benchmarks.reliability.programs", "evaluate"),
    "writing a row": Aim(LOG, "_append", half=half_written),
    "rewriting the table": Aim("trainkit.loggers.table.CSV", "_rewrite"),
    "cutting the log back": Aim("os", "truncate", taken_up=True, calls=1),
    "writing to TensorBoard": Aim("trainkit.loggers.tensorboard.TensorBoard", "log"),
    "writing a file whole": Aim("trainkit._core.run_files", "open_new"),
    "writing the summary": Aim("trainkit.loop.summary", "write_summary", "reported", calls=2),
    "drawing the report": Aim("trainkit.report.html", "report_html", "reported", calls=1),
    "writing the report": Aim("trainkit.report.html", "write_whole", "reported", calls=1),
    "keeping a compiled program": Aim("jax._src.lru_cache.LRUCache", "put", "compiled"),
    "planning a growth": Aim(
        "trainkit.progressive.transition.grow", "find_map", "growing", calls=2
    ),
    "compiling ahead": Aim(SWITCH, "compile", "growing", calls=2),
    "rehearsing what was compiled": Aim(SWITCH, "rehearse", "growing", calls=2),
    "growing": Aim(SWITCH, "__call__", "growing", calls=2),
    "certifying a growth": Aim(SWITCH, "certificate", "growing", calls=2),
    "replaying growths": Aim(HOOK, "load", "growing", taken_up=True, calls=1),
    "saving a grown state": Aim(HOOK, "save", "growing"),
}  # fmt: skip


def set_up(where: str, call: int, strike: str, out: Path) -> None:
    """Patches a function so that its `call`-th call strikes this process.

    Args:
      where: one of `AIMS`.
      call: its number, from 1.
      strike: "before", "half way" or "after", for a kill; "full" for a disk that is then full.
      out: the folder of the run.
    """
    aim = AIMS[where]
    owner, calls = owner_of(aim), 0
    whole = getattr(owner, aim.name)

    def struck(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return whole(*args, **kwargs)
        if strike == "full":
            fill(out.parent / BALLAST)
            return whole(*args, **kwargs)
        if strike == "half way":
            assert aim.half is not None
            aim.half(*args, **kwargs)
        elif strike == "after":
            whole(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(owner, aim.name, struck)
    # Also patch names that other modules have imported.
    for name, module in list(sys.modules.items()):
        if name.startswith(("trainkit", "benchmarks")) and vars(module).get(aim.name) is whole:
            setattr(module, aim.name, struck)


def fill(ballast: Path) -> None:
    """Fills the disk completely with one file."""
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def owner_of(aim: Aim) -> Any:
    """The module or class that has the function."""
    try:
        return importlib.import_module(aim.owner)
    except ModuleNotFoundError:
        module, _, inside = aim.owner.rpartition(".")
        return getattr(importlib.import_module(module), inside)
