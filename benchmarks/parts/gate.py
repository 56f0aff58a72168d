"""The time of the tests that `make test` runs; takes as long as these.

An absolute time: it is what a contributor waits for.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.effort import Effort
from benchmarks.paired import timed
from benchmarks.rows import Row

DEVICES, PEERS = 1, False


def tests(effort: Effort) -> Iterator[Row]:
    """The whole default run, or one file of it."""
    what = ["tests/test_house.py"] if effort.quick else []
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *what]
    done: list[int] = []
    run = timed(lambda: done.append(subprocess.run(command, capture_output=True).returncode))
    seconds = [run() / 60 for _ in range(effort.rounds or 1)]
    note = "" if not any(done) else "some tests failed"
    yield Row.of(" ".join(["make test", *what]), seconds, unit="min", note=note)


CASES: dict[str, Callable[[Effort], Iterator[Row]]] = {"tests": tests}
