"""Making trials, each once, keeping what they found, and the table of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability import corruptions, disk, kills
from benchmarks.reliability.undisturbed import Undisturbed
from benchmarks.reliability.verdicts import COLUMNS, EQUAL

# kind -> a trial: (seed, its folder, the undisturbed runs) -> (what was done, verdict).
TRIALS: dict[str, Callable[[int, Path, Undisturbed], tuple[str, str]]] = {
    "kills": kills.killed,
    "aimed": kills.aimed,
    "command": kills.commanded,
    "corruptions": corruptions.corrupted,
    "disk": disk.filled,
}


def read(results: Path) -> list[dict]:
    """What was found so far."""
    lines = results.read_text().splitlines() if results.exists() else []
    return [json.loads(line) for line in lines]


def table(results: Path) -> str:
    """What has been tried, as Markdown."""
    found: dict[tuple[str, str], Counter] = {}
    for row in read(results):
        kind = row["verdict"].split(":")[0]
        found.setdefault((row["trial"], row["what"]), Counter())[kind] += 1
    lines = ["| trial | what | tried | " + " | ".join(COLUMNS) + " |", "|---" * 8 + "|"]
    for trial in dict.fromkeys(trial for trial, _ in found):
        rows = {what: count for (kind, what), count in sorted(found.items()) if kind == trial}
        rows["**all**"] = sum(rows.values(), Counter())
        for what, count in rows.items():
            numbers = [sum(count.values()), *(count[kind] for kind in COLUMNS)]
            lines.append(f"| {trial} | {what} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def measure(counts: dict[str, int], results: Path) -> None:
    """Makes those trials that are not in the results yet."""
    rows = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    done = {(row["trial"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        runs = Undisturbed(base)
        for trial, count in counts.items():
            for seed in range(count):
                if (trial, seed) in done:
                    continue
                folder = base / f"{trial}-{seed}"
                folder.mkdir()
                what, found = TRIALS[trial](seed, folder, runs)
                row = {"trial": trial, "seed": seed, "what": what, "verdict": found}
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                if found != EQUAL:
                    print(row, flush=True)
                shutil.rmtree(folder, ignore_errors=True)
