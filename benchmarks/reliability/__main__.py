"""Measures what a run survives (kills, damage, full disks), and prints a table of counts.

    python -m benchmarks.reliability --full --jobs 2         # the table of docs/reliability.md
    python -m benchmarks.reliability --processes --inputs     # separate tables
    python -m benchmarks.reliability --kills 2 --aimed 2 --corruptions 8     # a minute

Every trial disturbs one of the small runs in `programs`, resumes it, and compares its result
bitwise with that of the undisturbed run: state, log, best evaluation, history.

  kills         SIGKILL at random instants, up to three times
  aimed         SIGKILL inside a function (`aims`): before, half way, after
  command       SIGKILL of `trainkit train` at random instants
  corruptions   damage to a stopped run's checkpoints, record, metrics, lock, compiled programs
  disk          a file system of a few megabytes that becomes full inside one function

Results are stored in a file (`--results`), so that an interrupted measurement can continue.
`--table` only prints their table. Full disks need the right to mount; as root, trials of
permissions run as another user.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.reliability.results import FULL, TRIALS, measure, table

# Measurements with their own module, catalogue and table.
OTHERS = {
    "processes": "every scenario of two processes",
    "inputs": "every bad input of the catalogue",
}


def main() -> None:
    """Reads the command line, runs the trials and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for trial in TRIALS:
        parser.add_argument(f"--{trial}", type=int, default=0, metavar="COUNT")
    for name, what in OTHERS.items():
        parser.add_argument(f"--{name}", action="store_true", help=what)
    parser.add_argument("--full", action="store_true", help="all trials, as in the docs")
    parser.add_argument("--jobs", type=int, default=1, help="number of trials at a time")
    parser.add_argument("--results", type=Path, default=Path("reliability.jsonl"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    # So that nothing stays mounted and no folder is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not options.table:
        counts = FULL if options.full else {trial: getattr(options, trial) for trial in TRIALS}
        measure(counts, options.results, options.jobs)
    print(table(options.results))
    for name in OTHERS:
        if options.full or getattr(options, name):
            # In its own process, because it needs another number of devices.
            command = [sys.executable, "-m", f"benchmarks.reliability.{name}"]
            subprocess.run(command, check=False)


if __name__ == "__main__":
    main()
