"""Bad inputs: each must give an error that names the argument and the fix, or change nothing.

    python -m benchmarks.reliability.inputs                   # all, about three minutes
    python -m benchmarks.reliability.inputs 'fit(' Sampler     # those with matching names

A trial makes one mistake in this process, and ends as

  named       an error of ours, whose message has the words that the catalogue requires
  traceback   an error of a library, or one of ours without these words
  late        named, but only after something was written
  accepted    no error, and the results differ from those of good input
  harmless    no error, and the results are those of good input, or NaN if the documentation
              says so
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import trainkit
from benchmarks.reliability.mistakes import commands, data, growth, loop, restoring, rules, training
from benchmarks.reliability.mistakes.base import Mistake, Mistakes, Said

ROOMS = {
    "step, model, loss, labels, weights": training.mistakes,
    "fit, hooks, folders, checkpoints": loop.mistakes,
    "restoring a checkpoint": restoring.mistakes,
    "data": data.mistakes,
    "rules and schedules": rules.mistakes,
    "growth": growth.mistakes,
    "laws and commands": commands.mistakes,
}
VERDICTS = ("named", "harmless", "traceback", "late", "accepted")
GOOD = ("named", "harmless")
ROOT = Path(trainkit.__file__).resolve().parents[1]
OURS = (ROOT / "trainkit", ROOT / "experiments")


class Outcome(NamedTuple):
    """The verdict on a trial, and the message."""

    verdict: str
    said: str
    seconds: float


def catalogue() -> dict[str, Mistakes]:
    """Room -> name -> mistake."""
    return {room: make() for room, make in ROOMS.items()}


def attempt(mistake: Mistake) -> Outcome:
    """Makes one mistake."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="trainkit-inputs-") as folder:
        out = Path(folder) / "run"
        quiet = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(quiet):
            warnings.simplefilter("ignore")
            verdict, said = _tried(mistake, out)
        # A trial may create files before its mistake.
        begun = (out / "config.json").exists() and not _prepares(mistake)
        if verdict == "named" and begun and not mistake.late:
            verdict = "late"
    return Outcome(verdict, said, time.perf_counter() - begin)


def _prepares(mistake: Mistake) -> bool:
    """Whether the trial starts a run before its mistake."""
    return any(part in " ".join(mistake.says) for part in ("resume=", "out=", "configuration"))


def _tried(mistake: Mistake, out: Path) -> tuple[str, str]:
    try:
        found = mistake.make(out)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        whole = [str(error), *getattr(error, "__notes__", ())]
        # An error of a user's function is the user's; our part is the added note.
        noted = any("loss_fn" in note for note in getattr(error, "__notes__", ()))
        named = (_is_ours(error) or noted) and not mistake.harmless
        return ("named" if named and _says(mistake, " ".join(whole)) else "traceback"), said
    if isinstance(found, Said):
        return ("named" if _says(mistake, found.text) else "traceback"), found.text
    return ("harmless" if mistake.harmless and found else "accepted"), f"gives {found!r:.200}"


def _says(mistake: Mistake, text: str) -> bool:
    return all(part in text for part in mistake.says)


def _is_ours(error: Exception) -> bool:
    """Whether a statement of this package raised the error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    file = Path(frame.f_code.co_filename).resolve()
    return any(home in file.parents for home in OURS)


def table(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """The number of trials for each room and verdict, as Markdown."""
    lines = [
        "| room | inputs | " + " | ".join(VERDICTS) + " |",
        "|---|" + "--:|" * (len(VERDICTS) + 1),
    ]
    whole: Counter[str] = Counter()
    for room, found in outcomes.items():
        counts = Counter(outcome.verdict for outcome in found.values())
        whole += counts
        lines.append(_row(room, counts))
    return "\n".join([*lines, _row("all", whole)])


def _row(name: str, counts: Counter[str]) -> str:
    numbers = [sum(counts.values()), *(counts[verdict] for verdict in VERDICTS)]
    return f"| {name} | " + " | ".join(map(str, numbers)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of names; all mistakes by default")
    parser.add_argument("--said", action="store_true", help="show what is said about each")
    options = parser.parse_args()
    outcomes: dict[str, dict[str, Outcome]] = {}
    for room, found in catalogue().items():
        outcomes[room] = {}
        for name, mistake in found.items():
            if options.names and not any(part in name for part in options.names):
                continue
            outcome = outcomes[room][name] = attempt(mistake)
            if options.said or outcome.verdict not in GOOD:
                print(f"{outcome.verdict:9}  {name}  ({outcome.seconds:.1f} s)")
                print(f"           {outcome.said:.500}", flush=True)
    print(table(outcomes))


if __name__ == "__main__":
    main()
