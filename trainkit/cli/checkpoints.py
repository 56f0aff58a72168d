"""`trainkit checkpoints DIR`: lists checkpoints, verifies, compares, exports and imports them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainkit.loop.checkpoint import Checkpointer, CheckpointError
from trainkit.loop.saved.comparison import compared
from trainkit.loop.saved.listing import Listed, listed, verified
from trainkit.loop.saved.step import step_info, steps_in
from trainkit.loop.saved.tensor_file import export_step, import_file
from trainkit.loop.transfer.restore import steps_folder
from trainkit.loop.transfer.selection import Patterned

EPILOG = """
examples:
  trainkit checkpoints runs/mine                          what there is
  trainkit checkpoints runs/mine --verify                 read everything, check every digest
  trainkit checkpoints runs/mine --leaves --only params   names, shapes and dtypes
  trainkit checkpoints runs/mine --compare 200 400        two steps
  trainkit checkpoints runs/mine --compare 400 runs/other two runs; runs/other:300 is one step of it
  trainkit checkpoints runs/mine --export mine.safetensors --only params
  trainkit checkpoints runs/new --import mine.safetensors

DIR is the folder of a run, or of checkpoints. Nothing in it is changed, but by --import, which
makes a folder; it can be looked at while the run trains. What is imported is read with
trainkit.checkpoint.restore(DIR), under the names that the file has, with / for a dot.
Exit status: 0 where all is well, 1 where a checkpoint is damaged or two differ, 2 where it could
not be done.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainkit checkpoints",
        description="Look into the checkpoints of a run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--verify", action="store_true", help="check the digest of every array")
    what.add_argument("--leaves", action="store_true", help="list what is in one checkpoint")
    what.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="two steps, or DIR or DIR:STEP of other runs"
    )
    what.add_argument("--export", metavar="FILE", type=Path, help="write a safetensors file")
    what.add_argument(
        "--import", dest="imported", metavar="FILE", type=Path, help="make a checkpoint of one"
    )
    parser.add_argument("--step", type=int, help="which checkpoint; the newest by default")
    parser.add_argument(
        "--only", action="append", metavar="PATTERN",
        help="leaves whose names begin so (a regular expression, up to the end or a /); repeatable",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        if options.imported:
            return _import(options)
        folder = steps_folder(options.folder)
        if not steps_in(folder):
            raise CheckpointError(f"There is no checkpoint in {folder}.")
        if options.compare:
            return _compare(folder, options)
        if options.export:
            return _export(folder, options)
        return _leaves(folder, options) if options.leaves else _list(folder, options)
    except (CheckpointError, ValueError, OSError) as error:
        print(f"trainkit checkpoints: {error}", file=sys.stderr)
        return 2


def _list(folder: Path, options: argparse.Namespace) -> int:
    found = [row for row in listed(folder) if options.step in (None, row.step)]
    if not found:
        raise CheckpointError(f"There is no step {options.step}; there are {steps_in(folder)}.")
    damage = {
        row.step: row.damage or (verified(folder, row.step) if options.verify else None)
        for row in found
    }
    whole = "every digest right" if options.verify else ""
    _table(
        {"step": "right", "score": "right", "size": "right", "saved": "left", "": "left"},
        [
            (f"{row.step:,}", _number(row.score), _size(row.bytes), _when(row.time),
             "damaged" if damage[row.step] else whole)
            for row in found
        ],
    )  # fmt: skip
    for versions, steps in _by_versions(found).items():
        which = f" (steps {', '.join(map(str, steps))})" if len(steps) < len(found) else ""
        print(f"Written by {versions}{which}.")
    for text in filter(None, damage.values()):
        print(text)
    return 1 if any(damage.values()) else 0


def _leaves(folder: Path, options: argparse.Namespace) -> int:
    step = _step(folder, options.step)
    leaves = step_info(folder, step)[0]["_leaves"]
    rows = [(name, leaves[name][1], str(leaves[name][0])) for name in _chosen(leaves, options)]
    _table({f"leaf of step {step:,}": "left", "dtype": "left", "shape": "left"}, rows)
    return 0


def _compare(folder: Path, options: argparse.Namespace) -> int:
    first, second = (_place(folder, text) for text in options.compare)
    only = Patterned(options.only, "--only") if options.only else None
    same, apart = compared(first, second, lambda name: only is None or name in only)
    if not same and not apart:
        raise CheckpointError(f"--only={options.only} names no leaf of either.")
    titles = [f"step {step:,} of {where}" for where, step in (first, second)]
    print(f"a is {titles[0]}\nb is {titles[1]}")
    if apart:
        _table(
            {
                "leaf": "left",
                "a": "left",
                "b": "left",
                "largest |a-b|": "right",
                "|a-b|/|a|": "right",
            },
            [(d.leaf, d.first, d.second, _number(d.largest), _number(d.relative)) for d in apart],
        )
    print(f"{len(same)} leaves are the same to the last bit, {len(apart)} differ.")
    return 1 if apart else 0


def _export(folder: Path, options: argparse.Namespace) -> int:
    step = _step(folder, options.step)
    names = _chosen(step_info(folder, step)[0]["_leaves"], options)
    export_step(folder, step, names, options.export)
    size = _size(options.export.stat().st_size)
    print(f"Wrote {len(names)} leaves of step {step:,} into {options.export} ({size}).")
    return 0


def _import(options: argparse.Namespace) -> int:
    if options.folder.is_dir() and any(options.folder.iterdir()):
        raise CheckpointError(f"{options.folder} is not empty; --import makes a folder of its own.")
    tree, found = import_file(options.imported)
    step = found["_step"] if options.step is None else options.step
    with Checkpointer(options.folder, keep=2**31 - 1) as checkpoints:
        checkpoints.save(step, tree, info={"imported": options.imported.name})
    print(f"Made a checkpoint of step {step:,} in {options.folder}.")
    return 0


def _step(folder: Path, step: int | None) -> int:
    steps = steps_in(folder)
    if step is not None and step not in steps:
        raise CheckpointError(f"There is no step {step} in {folder}; there are {steps}.")
    return steps[-1] if step is None else step


def _place(folder: Path, text: str) -> tuple[Path, int]:
    """A step of this folder, or `DIR` or `DIR:STEP`."""
    if text.isdigit():
        return folder, _step(folder, int(text))
    where, colon, step = text.rpartition(":")
    if not (colon and step.isdigit()):
        where, step = text, ""
    other = steps_folder(where)
    if not steps_in(other):
        raise CheckpointError(f"There is no checkpoint in {other}.")
    return other, _step(other, int(step) if step else None)


def _chosen(leaves: Any, options: argparse.Namespace) -> list[str]:
    names = list(leaves)
    if not options.only:
        return names
    only = Patterned(options.only, "--only")
    only.check_used("--only", names, "the checkpoint")
    return [name for name in names if name in only]


def _by_versions(rows: Sequence[Listed]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in rows:
        if row.versions:
            text = ", ".join(f"{name} {version}" for name, version in row.versions.items())
            found.setdefault(text, []).append(row.step)
    return found


def _table(columns: dict[str, Any], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, justify in columns.items():
        table.add_column(title, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # Into a file or a pipe whole, however wide.
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, markup=False).print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _when(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
