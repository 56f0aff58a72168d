"""A private copy of the project in which faults are planted and pytest runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")
LONGEST = 600.0  # seconds for one test, or for importing and collecting all
# The baseline writes the compilation cache; trials only read it, so that a killed trial leaves no
# incomplete file.
WRITES = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
READS = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"}


class Outcome(NamedTuple):
    """The outcome of a run of pytest.

    Attributes:
      how: "passed", "failed", "crashed", "timeout" or "memory".
      by: the test that was running.
      message: its error message.
      result: the result of the plugin: seconds, failed, lines, shared; empty if there is none.
    """

    how: str
    by: str
    message: str
    result: dict[str, Any]


class Stopped(Exception):
    """A stop was requested."""


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """A temporary copy of the project, and the settings of pytest.

    Attributes:
      folder: a temporary folder; the copy is in `tree`.
      cache: the folder of the compilation cache.
      options: options of pytest.
      memory: the limit for the memory of pytest in GB.
      stop: set this to end all runs.
    """

    folder: pathlib.Path
    cache: pathlib.Path
    options: Sequence[str] = ()
    memory: float = 8.0
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def tree(self) -> pathlib.Path:
        return self.folder / "tree"

    def run(
        self,
        modules: Sequence[str],
        *,
        order: Sequence[str] | None = None,
        record: Sequence[str] = (),
        first: bool = False,
        limits: Mapping[str, float] | None = None,
    ) -> Outcome:
        """Runs pytest on `modules`.

        Args:
          order: the tests to run, in this order; `None`: all.
          record: the files whose executed lines are recorded.
          first: stop at the first failure, and do not write to the compilation cache.
          limits: test -> its time limit in seconds.
        """
        job, progress, result = (self.folder / name for name in ("job", "progress", "result"))
        result.unlink(missing_ok=True)
        progress.write_text("importing and collecting\n")
        job.write_text(
            json.dumps(
                {
                    "order": order,
                    "record": {str(self.tree / name): name for name in record},
                    "progress": str(progress),
                    "result": str(result),
                }
            )
        )
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["-p", "pytest_plugin", *(["-x"] if first else []), *self.options, *modules]
        with open(self.folder / "log", "w+") as log:
            process = subprocess.Popen(
                command,
                cwd=self.tree,
                env=self._environment(READS if first else WRITES),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                cut, by = self._wait(process, progress, limits or {})
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.seek(0)
            said = log.read().strip().rpartition("\n")[2]
        found = json.loads(result.read_text()) if result.exists() else {}
        if cut:
            return Outcome(cut, by, "", found)
        if found.get("failed"):
            test, message = next(iter(found["failed"].items()))
            return Outcome("failed", test, message, found)
        # 5: no tests were collected, for example because a fault changes their names.
        if process.returncode in (0, 5):
            return Outcome("passed", "", "", found)
        return Outcome("crashed", by, said[:200], found)

    def _environment(self, cache: Mapping[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        return kept | {
            "PYTHONPATH": os.pathsep.join([str(self.tree), str(self.folder)]),
            "PYTHONHASHSEED": "0",
            "FAULTS_JOB": str(self.folder / "job"),
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            **cache,
        }

    def _wait(
        self, process: subprocess.Popen, progress: pathlib.Path, limits: Mapping[str, float]
    ) -> tuple[str, str]:
        """Waits for the end: (why pytest was stopped early, or ""; the test that was running)."""
        now, since = "", time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            said = progress.read_text().splitlines()[-1]
            if said != now:
                now, since = said, time.monotonic()
            if self.stop.is_set():
                raise Stopped
            if time.monotonic() - since > limits.get(now, LONGEST):
                return "timeout", now
            if _gigabytes(process.pid) > self.memory:
                return "memory", now
        return "", progress.read_text().splitlines()[-1]

    @contextlib.contextmanager
    def planted(self, file: str, data: bytes) -> Iterator[None]:
        """A context in which the file has other contents."""
        path = self.tree / file
        before = path.read_bytes()
        try:
            _put(path, data)
            yield
        finally:
            _put(path, before)


@contextlib.contextmanager
def sandbox(root: pathlib.Path, **settings: Any) -> Iterator[Sandbox]:
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        # Resolved, because Python reports resolved names of files.
        place = Sandbox(folder=pathlib.Path(name).resolve(), **settings)
        shutil.copytree(root, place.tree, ignore=LEFT_OUT)
        shutil.copy(pathlib.Path(__file__).with_name("pytest_plugin.py"), place.folder)
        yield place


def _put(path: pathlib.Path, data: bytes) -> None:
    path.write_bytes(data)
    # Python checks bytecode by size and time in seconds, which two faults may share.
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def _gigabytes(pid: int) -> float:
    """The memory of a process in GB; 0 if the system does not report it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e9
    return 0.0
