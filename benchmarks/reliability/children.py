"""Child processes for trials, forked from a process that has imported everything, to start fast.

The imports use no device: JAX's threads start in the child.
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
LIMIT = 300.0  # seconds after which a child counts as hanging
# Suffixes of the files with the output and the result of the last child, beside the folder of the
# trial, on a disk that is never full.
SAID, END = ".said", ".end"
NOBODY = 65534  # a user without special permissions, if we are root


@dataclasses.dataclass(frozen=True)
class Done:
    """How a process ended: its exit status (below 0: a signal) and its output."""

    status: int
    said: str

    @property
    def killed(self) -> bool:
        """Whether it was killed."""
        return self.status == -signal.SIGKILL


def child(
    out: Path,
    run: str = "plain",
    *,
    aim: tuple[str, int, str] | None = None,
    kill_after: float | None = None,
    uid: int | None = None,
) -> Done:
    """Runs or resumes a program of `programs.RUNS` in its own process.

    Args:
      out: the folder of the run; `end_of` returns its result.
      run: the program.
      aim: (where, call, strike); see `aims.set_up`.
      kill_after: seconds after which it is killed.
      uid: the user to run as.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *PRELOADED])
    for name in (SAID, END):
        beside(out, name).write_text("")
        beside(out, name).chmod(0o666)
    process = context.Process(target=_run, args=(str(out), run, aim, uid))
    process.start()
    process.join(LIMIT if kill_after is None else kill_after)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    status = process.exitcode
    process.close()
    text = beside(out, SAID).read_text(errors="replace")
    if late and kill_after is None:
        return Done(1, f"{text}\nhangs")
    return Done(status or 0, text)


def beside(out: Path, name: str) -> Path:
    """A file beside the folder of the trial with the run in `out`."""
    return out.parent.with_name(out.parent.name + name)


def end_of(out: Path) -> dict[str, Any]:
    """The result of the last child that finished; `{}` if none did."""
    return json.loads(beside(out, END).read_text() or "{}")


def _run(out: str, run: str, aim: tuple[str, int, str] | None, uid: int | None) -> None:
    folder = Path(out)
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(beside(folder, SAID).open("a"))
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
    beside(folder, END).write_text(json.dumps(found))
