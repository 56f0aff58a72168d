"""The command line: `python -m tools.faults --help`."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import shlex
import signal
import sys
import threading
from collections.abc import Sequence

from tools.faults import report, trials
from tools.faults.baseline import recorded
from tools.faults.sample import draw
from tools.faults.sandbox import sandbox
from tools.faults.sites import faults_in

ROOMS = [f"trainkit/growth/{room}" for room in ("rules", "analysis", "maps", "opt_state")]
TESTS = ["tests/growth", "tests/progressive"]


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.faults",
        description="Plants faults in a copy of the sources, one at a time, and runs the tests "
        "that execute each. Results are kept: the same command continues where it ended.",
    )
    add = parser.add_argument
    add("paths", nargs="*", default=ROOMS, help="folders or files to mutate")
    add("--count", type=int, default=120, help="how many faults (120)")
    add("--seed", type=int, default=0, help="which ones (0)")
    add("--tests", nargs="+", default=TESTS, help=f"folders or files ({' '.join(TESTS)})")
    add("--pytest", default="--slow=none", help="options of pytest (--slow=none)")
    add("--workers", type=int, default=1, help="trials at a time (1)")
    add("--patience", type=float, default=10, help="time limit, in multiples of a test's time")
    add("--memory", type=float, default=8, help="memory limit of a trial in GB (8)")
    add("--again", action="store_true", help="repeat the trials of survivors")
    add("--list", action="store_true", help="only print the faults")
    add("--report", action="store_true", help="only print the results so far")
    add("--root", type=pathlib.Path, default=pathlib.Path(), help="root of the project (.)")
    add("--build", default="build/faults", help="folder for results (build/faults)")
    add("--equivalent", default="tools/equivalent_faults.json", help="equivalent faults")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    chosen = arguments(words)
    root = chosen.root.resolve()
    build = root / chosen.build
    try:
        found, sources = faults_in(root, chosen.paths)
    except FileNotFoundError as error:
        sys.exit(str(error))
    faults = draw(found, sources, chosen.count, chosen.seed)
    if chosen.list:
        print(*faults, f"{len(faults)} of {len(found)}", sep="\n")
        return
    results = build / "results.jsonl"
    if not chosen.report:
        build.mkdir(parents=True, exist_ok=True)
        done = trials.read(results, faults, sources)
        left = [
            fault
            for fault in faults
            if fault.key() not in done or (chosen.again and not done[fault.key()]["killed"])
        ]
        with contextlib.ExitStack() as stack:
            stop = threading.Event()
            places = [
                stack.enter_context(
                    sandbox(
                        root,
                        cache=build / "xla",
                        options=shlex.split(chosen.pytest),
                        memory=chosen.memory,
                        stop=stop,
                    )
                )
                for _ in range(chosen.workers)
            ]
            baseline = recorded(
                places[0], list(sources), chosen.tests, build / "baseline.json", _say
            )
            for test, why in baseline.failing().items():
                _say(f"left out, it fails without a fault: {test}: {why}")
            for i, r in enumerate(
                trials.run(left, sources, baseline, places, results, chosen.patience)
            ):
                word = "killed  " if r["killed"] else "SURVIVED"
                by = f"{r['how']}: {r['by'] or r['message']}" if r["killed"] else r["after"]
                _say(f"{i + 1}/{len(left)} {word} {r['file']}:{r['line']} {r['seconds']} s  {by}")
    reasons = report.equivalents(root / chosen.equivalent)
    print(report.report(faults, trials.read(results, faults, sources), reasons, sources))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    # So that running tests are stopped and the copies are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
