"""Runs trials, each once, and stores and tabulates their results."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.reliability import corruptions, disk, kills
from benchmarks.reliability.undisturbed import Undisturbed
from benchmarks.reliability.verdicts import COLUMNS, EQUAL

# Kind -> trial: (seed, folder, undisturbed runs) -> (description, verdict).
TRIALS: dict[str, Callable[[int, Path, Undisturbed], tuple[str, str]]] = {
    "kills": kills.killed,
    "aimed": kills.aimed,
    "command": kills.commanded,
    "corruptions": corruptions.corrupted,
    "disk": disk.filled,
}


# The number of trials of each kind for the table in docs/reliability.md.
FULL = {"kills": 200, "aimed": 69, "command": 20, "corruptions": 400, "disk": 46}


def read(results: Path) -> list[dict]:
    """The results so far."""
    lines = results.read_text().splitlines() if results.exists() else []
    return [json.loads(line) for line in lines]


def table(results: Path) -> str:
    """The results as Markdown: one row for each function, program or file."""
    found: dict[tuple[str, str], Counter] = {}
    for row in read(results):
        kind = row["verdict"].split(":")[0]
        found.setdefault((row["trial"], row["what"].split(":")[0]), Counter())[kind] += 1
    lines = ["| trial | what | tried | " + " | ".join(COLUMNS) + " |", "|---" * 8 + "|"]
    for trial in dict.fromkeys(trial for trial, _ in found):
        rows = {what: count for (kind, what), count in sorted(found.items()) if kind == trial}
        rows["**all**"] = sum(rows.values(), Counter())
        for what, count in rows.items():
            numbers = [sum(count.values()), *(count[kind] for kind in COLUMNS)]
            lines.append(f"| {trial} | {what} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def measure(counts: dict[str, int], results: Path, jobs: int = 1) -> None:
    """Runs the trials that are not in the results yet, `jobs` at a time."""
    done = {(row["trial"], row["seed"]) for row in read(results)}
    # The kinds alternate, so that an interrupted measurement has some of each.
    wanted = [(seed, trial) for trial, count in counts.items() for seed in range(count)]
    left = [(trial, seed) for seed, trial in sorted(wanted) if (trial, seed) not in done]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(jobs) as pool:
        base = Path(name)
        base.chmod(0o755)
        runs = Undisturbed(base)
        try:
            for made in as_completed([pool.submit(_made, *one, runs) for one in left]):
                row = made.result()
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                if row["verdict"] != EQUAL:
                    print(row, flush=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _made(trial: str, seed: int, runs: Undisturbed) -> dict[str, Any]:
    folder = runs.base / f"{trial}-{seed}"
    folder.mkdir()
    what, verdict = TRIALS[trial](seed, folder, runs)
    shutil.rmtree(folder, ignore_errors=True)
    return {"trial": trial, "seed": seed, "what": what, "verdict": verdict}
