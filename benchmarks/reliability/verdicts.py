"""How a disturbed run ended, in a word or two."""

from __future__ import annotations

import re
from pathlib import Path

import trainkit
from benchmarks.reliability.children import Done, end_of

# The columns of the table, in order. Whatever a verdict begins with is its column.
EQUAL, LOG_SAID, REFUSED = "equal", "equal but for rows of the log, said", "refused by name"
FAILED, WRONG = "FAILED", "SILENTLY WRONG"
COLUMNS = (EQUAL, LOG_SAID, REFUSED, FAILED, WRONG)
HOME = str(Path(trainkit.__file__).parent)


def verdict(done: Done, out: Path, expected: dict) -> str:
    """Whether a run ended as the undisturbed one, or how it failed."""
    if done.status == 0:
        found = end_of(out)
        differing = {k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)}
        if not differing:
            return EQUAL
        if differing == {"rows"} and "metrics.jsonl" in done.said:
            return LOG_SAID
        return f"{WRONG}: {', '.join(sorted(differing))}"
    lines = done.said.strip().splitlines() or ["nothing said"]
    return f"{REFUSED if is_ours(done.said) else FAILED}: {lines[-1][:200]}"


def is_ours(said: str) -> bool:
    """Whether the last traceback ends at a `raise` of ours, or is one line of the command's."""
    frames = re.findall(r'  File "(.*)", line \d+, in .*\n(?: +(.*)\n)?', said)
    if not frames:
        return said.strip().split("\n")[-1].startswith("Error: ")
    file, line = frames[-1]
    return file.startswith(HOME) and line.startswith("raise ")
