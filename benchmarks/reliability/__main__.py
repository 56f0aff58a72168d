"""What a run survives: kills, damaged checkpoints, full disks. Counts, and a table of them.

    python -m benchmarks.reliability --kills 200 --aimed 60 --corruptions 400
    python -m benchmarks.reliability --kills 2 --aimed 2 --corruptions 8     # a minute

Every trial runs the small program of this file, which depends on all that a checkpoint holds (a
key, moments, the order of the data, an evaluation, early stopping), and compares what it ends with,
bit for bit, to what the undisturbed run ends with: the state, the log and the best evaluation.

  kills         SIGKILL at a random instant, again and again until the run ends
  aimed         SIGKILL inside a function: while a step is written, moved away or deleted, while the
                run is evaluated, while a row or a file of the run is written
  corruptions   of a checkpoint of a stopped run: cut, flipped, emptied, deleted, swapped, renamed,
                made of another step, without permission; then the run goes on

What has been tried is kept in a file (`--results`), so that the measure can be stopped and go on.
`--table` prints only the table of what is there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.reliability.results import TRIALS, measure, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for trial in TRIALS:
        parser.add_argument(f"--{trial}", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("reliability.jsonl"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        measure({trial: getattr(options, trial) for trial in TRIALS}, options.results)
    print(table(options.results))


if __name__ == "__main__":
    main()
