"""`trainkit report RUN ...`: the page of a run or of several, also while they train."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainkit._core.run_files import REPORT, write_whole
from trainkit.report.html import report_html
from trainkit.report.run_data import read_run

EPILOG = """
examples:
  trainkit report runs/mine                  writes report.html, here
  trainkit report runs/* --out rates.html    several runs on one page
  trainkit report runs/mine --live           while it trains: the page loads itself anew

A page is one file, to be opened in a browser. Of several runs it has a table of the options in
which they differ and of their last numbers, and their curves in one plot. Nothing is written into
the folders of the runs.
Exit status: 0, or 2 where there is no such run.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainkit report",
        description="Write a report of a run, or a comparison of several.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="the folder of a run")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default=Path(REPORT), help=f"(default: {REPORT})"
    )
    parser.add_argument("--title", help="by default the names of the folders")
    parser.add_argument(
        "--live", action="store_true", help="write it again and again until the runs are over"
    )
    parser.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="with --live (default: 5)"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Writes the page; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.every <= 0:
        print(f"--every must be a number above 0, not {options.every:g}.", file=sys.stderr)
        return 2
    # `runs/*` may have pages between the runs.
    folders = [path for path in options.runs if not path.is_file()]
    if not folders:
        print(f"{options.runs[0]} is a file; give the folder of a run.", file=sys.stderr)
        return 2
    said = False
    while True:
        try:
            runs = [read_run(folder, name) for folder, name in _named(folders)]
            live = options.live and any(run.running for run in runs)
            title = options.title or ", ".join(run.name for run in runs)
            page = report_html(runs, title=title, refresh=options.every if live else None)
            write_whole(options.out, page)
        except (OSError, json.JSONDecodeError) as error:
            print(f"Error: {error}", file=sys.stderr)
            return 2
        if not live:
            print(f"Report: {options.out.resolve()}")
            return 0
        if not said:
            where = options.out.resolve()
            print(f"Report: {where}, until the runs are over (Ctrl-C ends it)", flush=True)
            said = True
        time.sleep(options.every)


def _named(folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """Each folder with the shortest end of its path that no other has."""
    paths = [folder.resolve() for folder in folders]
    names = [path.name for path in paths]
    for depth in range(2, max(len(path.parts) for path in paths) + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(path.parts[-depth:]) for path in paths]
    return list(zip(folders, names, strict=True))
