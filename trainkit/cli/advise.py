"""`trainkit advise EXPERIMENT`: whether growing pays in it, told from short runs.

An experiment that can be advised on has, beside `Config` and `run`, a function

    advise(config, **how) -> trainkit.progressive.Advice

which calls `trainkit.progressive.advise(…, **how)` with its stages, data and budget.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trainkit._core.run_files import write_whole
from trainkit.cli.main import unknown
from trainkit.cli.train import experiment_with, experiments, keep_programs

ADVICE = "advice.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainkit advise",
        description="Trains every size and every growth of an experiment for a small share of its "
        "budget, and says whether to grow, when and how, what loss is expected of each and how "
        "sure that is. A command that was stopped goes on where it was.",
        epilog="Options of the experiment follow --, as `trainkit train EXPERIMENT` takes them:\n"
        "trainkit advise progressive_lm -- --steps 6000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("experiment", help="its name")
    add("--share", type=float, default=0.2, help="of the budget, for all short runs (0.2)")
    add("--seeds", type=int, default=1, help="short runs of each kind (1)")
    add("--out", metavar="DIR", help="for what is measured (runs/EXPERIMENT-advice)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Prints the advice and writes it to a file; 0 whatever it says, 2 where there is none."""
    at = argv.index("--") if "--" in argv else len(argv)
    options, rest = _parser().parse_args(argv[:at]), argv[at + 1 :]
    found = experiments()
    if options.experiment not in found:
        print(unknown("experiment", options.experiment, list(found)), file=sys.stderr)
        return 2
    out = Path(options.out or f"runs/{options.experiment}-advice")
    try:
        experiment = experiment_with("advise(config, **how)", "advice", options.experiment, found)
        import tyro

        config = tyro.cli(experiment.Config, args=rest, prog="trainkit advise … --")
        keep_programs(out)
        advice = experiment.advise(config, share=options.share, seeds=options.seeds, out=out)
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("TRAINKIT_TRACEBACK"):
            raise
        print(f"trainkit advise: {error}", file=sys.stderr)
        return 2
    print(advice)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / ADVICE, json.dumps(advice.to_json(), indent=2))
    print(f"Numbers: {out / ADVICE}")
    return 0
