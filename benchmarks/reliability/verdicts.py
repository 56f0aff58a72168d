"""Verdicts on how a disturbed run ended."""

from __future__ import annotations

import re
from pathlib import Path

import trainkit
from benchmarks.reliability.children import Done, end_of

# The columns of the table, in order. The start of a verdict is its column.
EQUAL, FILE_SAID, REFUSED = "equal", "equal but for a file, said", "refused by name"
FAILED, WRONG = "FAILED", "SILENTLY WRONG"
COLUMNS = (EQUAL, FILE_SAID, REFUSED, FAILED, WRONG)
# Files that training does not need -> the message if one is damaged.
FILES = {"rows": "metrics.jsonl is not what", "report": "Not written"}
HOME = str(Path(trainkit.__file__).parent)


def verdict(done: Done, out: Path, expected: dict) -> str:
    """The verdict: whether a run ended like the undisturbed one, or how it failed."""
    if done.status == 0:
        found = end_of(out)
        differing = {k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)}
        if not differing:
            return EQUAL
        if all(part in FILES and FILES[part] in done.said for part in differing):
            return FILE_SAID
        return f"{WRONG}: {', '.join(sorted(differing))}"
    lines = done.said.strip().splitlines() or ["nothing said"]
    return f"{REFUSED if is_ours(done.said) else FAILED}: {lines[-1][:200]}"


def is_ours(said: str) -> bool:
    """Whether the error is ours: a `raise` in this package, or a one-line error of the command."""
    frames = re.findall(r'  File "(.*)", line \d+, in .*\n(?: +(.*)\n)?', said)
    if not frames:
        return said.strip().split("\n")[-1].startswith("Error: ")
    file, line = frames[-1]
    return file.startswith(HOME) and line.startswith("raise ")
