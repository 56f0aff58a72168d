"""Processes that can be killed: forked from one that has imported everything, so they cost little.

What is imported has not touched a device: JAX's threads begin in the child.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

PRELOADED = (
    "benchmarks.reliability.aims",
    "trainkit.loop.saved.info_handler",
    "trainkit.report.plots",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "tensorboardX.event_file_writer",
    "tensorboardX.summary",
)
LIMIT = 300.0  # seconds, after which a child hangs, however busy the machine is
# Beside the folders of all trials, on a disk that is never full: of the child that ran last, what
# it said and what it ended with.
SAID, END = "said", "end.json"
NOBODY = 65534  # whom permissions hold for, where we are root


@dataclasses.dataclass(frozen=True)
class Done:
    """How a process ended: its exit status (below 0 a signal) and what it had said."""

    status: int
    said: str

    @property
    def killed(self) -> bool:
        """Whether it was."""
        return self.status == -signal.SIGKILL


def child(
    out: Path,
    run: str = "plain",
    *,
    aim: tuple[str, int, str] | None = None,
    kill_after: float | None = None,
    uid: int | None = None,
) -> Done:
    """Runs a program of `programs.RUNS` in a process of its own, or goes on with it.

    Args:
      out: the folder of the run; what it ends with is what `end_of` gives.
      run: which program.
      aim: where something strikes, at which call, and what; see `aims.set_up`.
      kill_after: seconds after which it is killed.
      uid: as whom to run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *PRELOADED])
    for name in (SAID, END):
        (out.parents[1] / name).write_text("")
        (out.parents[1] / name).chmod(0o666)
    process = context.Process(target=_run, args=(str(out), run, aim, uid))
    process.start()
    process.join(LIMIT if kill_after is None else kill_after)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    status = process.exitcode
    process.close()
    text = (out.parents[1] / SAID).read_text(errors="replace")
    if late and kill_after is None:
        return Done(1, f"{text}\nhangs")
    return Done(status or 0, text)


def end_of(out: Path) -> dict[str, Any]:
    """What the last child that came to its end ended with; `{}` where none did."""
    return json.loads((out.parents[1] / END).read_text() or "{}")


def _run(out: str, run: str, aim: tuple[str, int, str] | None, uid: int | None) -> None:
    folder = Path(out)
    with contextlib.ExitStack() as stack:
        said = stack.enter_context((folder.parents[1] / SAID).open("a"))
        for stream in (sys.stdout, sys.stderr):
            os.dup2(said.fileno(), stream.fileno())
    if uid is not None:
        os.setuid(uid)
    import jax

    from benchmarks.reliability import aims, programs

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(folder.parents[1] / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if aim is not None:
        aims.set_up(*aim, folder)
    found = programs.RUNS[run](folder)
    (folder.parents[1] / END).write_text(json.dumps(found))
