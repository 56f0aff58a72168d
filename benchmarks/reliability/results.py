"""Making trials, each once, keeping what they found, and the table of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability.corruptions import corrupted
from benchmarks.reliability.kills import aimed, killed
from benchmarks.reliability.run import STEPS, child, end_of

# kind -> a trial: (seed, folder, expected end) -> (what was done, verdict)
TRIALS: dict[str, Callable[[int, Path, dict], tuple[str, str]]] = {
    "kills": killed,
    "aimed": aimed,
    "corruptions": corrupted,
}


def table(results: Path) -> str:
    """What has been tried, as Markdown."""
    found: dict[tuple[str, str], Counter] = {}
    for line in results.read_text().splitlines() if results.exists() else []:
        row = json.loads(line)
        kind = row["verdict"].split(":")[0]
        found.setdefault((row["trial"], row["what"]), Counter())[kind] += 1
    lines = ["| trial | what | tried | equal | refused | failed | silently wrong |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for (trial, what), count in sorted(found.items()):
        counts = [count[kind] for kind in ("equal", "refused", "FAILED", "SILENTLY WRONG")]
        numbers = " | ".join(map(str, [sum(count.values()), *counts]))
        lines.append(f"| {trial} | {what} | {numbers} |")
    return "\n".join(lines)


def measure(counts: dict[str, int], results: Path) -> None:
    """Makes those trials that are not in the results yet."""
    done = set()
    if results.exists():
        rows = map(json.loads, results.read_text().splitlines())
        done = {(row["trial"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        child(base / "undisturbed" / "run")
        expected = end_of(base / "undisturbed" / "run")
        assert expected.get("steps") == STEPS, "the undisturbed run does not end"
        child(base / "stopped" / "run", "writing a row", "24")
        for trial, count in counts.items():
            for seed in range(count):
                if (trial, seed) in done:
                    continue
                folder = base / f"{trial}-{seed}"
                folder.mkdir()
                what, found = TRIALS[trial](seed, folder, expected)
                row = {"trial": trial, "seed": seed, "what": what, "verdict": found}
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                if found != "equal":
                    print(row, flush=True)
                shutil.rmtree(folder, ignore_errors=True)
