"""What the runs of `progressive_mnist` came to, over the seeds: verdict, table and reports."""

from __future__ import annotations

import dataclasses
import json
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trainkit
from trainkit._core.run_files import write_whole
from trainkit._core.units import mean_spread, si
from trainkit.progressive.run import ProgressiveResult
from trainkit.report import read_run, write_report
from trainkit.report.growth import growth_parts
from trainkit.report.progress import width
from trainkit.report.verdict import Ending, Method, Verdict, verdict


@dataclasses.dataclass(frozen=True)
class Seed:
    """All runs of one seed.

    Attributes:
      title: of the report.
      out: their folder.
      test: batches of test data.
      results: by name, the growing run first.
    """

    title: str
    out: Path
    test: Sequence[Any]
    results: dict[str, ProgressiveResult]

    def numbers(self) -> dict[str, dict[str, float]]:
        """What each run came to."""
        found = {}
        for name, result in self.results.items():
            evaluate = trainkit.make_eval_step(result.prepared.model)
            test = evaluate.over(result.state, self.test)
            found[name] = {
                "test_accuracy": test["accuracy"],
                "test_loss": test["loss"],
                "validation_loss": result.evaluation["loss"],
                "parameters": result.prepared.parameters,
                "flops": result.ledger.total,
                "seconds": result.fit.seconds,
                "examples": result.fit.examples,
            }
        return found


def report(
    where: Path, seeds: dict[str, Seed], rates: dict[str, float], tried: Sequence[float]
) -> dict[str, Any]:
    """Prints the table and the verdict, writes the reports, returns the numbers.

    Args:
      where: the folder of the experiment.
      seeds: the runs.
      rates: the learning rate of each run.
      tried: those that each was chosen from; none where they were not tuned.
    """
    said = judged(list(seeds.values()), rates, tried)
    found: dict[str, Any] = {seed: runs.numbers() for seed, runs in seeds.items()}
    content = {"verdict": dataclasses.asdict(said), **found}
    write_whole(where / "results.json", json.dumps(content, indent=2))
    table(list(found.values()))
    print(textwrap.fill(said.sentence, width()), flush=True)
    for seed, runs in seeds.items():
        print(f"Report: {write(runs, said.sentence, found[seed])}", flush=True)
    return content


def judged(seeds: Sequence[Seed], rates: dict[str, float], tried: Sequence[float]) -> Verdict:
    """What can be said of growing."""
    growing, *others = [
        Method(
            {"progressive": "growing"}.get(name, name),
            [Ending.of(seed.results[name].history) for seed in seeds],
            rates[name],
            tried or (rates[name],),
        )
        for name in seeds[0].results
    ]
    return verdict(growing, others)


def write(seed: Seed, sentence: str, found: dict[str, dict[str, float]]) -> Path:
    """The report of one seed."""
    ours, out = seed.results["progressive"], seed.out
    history = {"history": list(ours.history), "ledger": ours.ledger.to_json()}
    write_whole(out / "history.json", json.dumps(history, indent=2))
    others = {name: result for name, result in seed.results.items() if name != "progressive"}
    return write_report(
        out / "progressive",
        lead=sentence,
        title=seed.title,
        headline={
            f"test accuracy, {name}": f"{row['test_accuracy']:.2%}" for name, row in found.items()
        },
        others=[dataclasses.replace(read_run(out / name), name=name) for name in others],
        parts=growth_parts(
            ours.history,
            ours.ledger.to_json(),
            {name: result.history for name, result in others.items()},
        ),
    )


def table(seeds: Sequence[dict[str, dict[str, float]]]) -> None:
    """The comparison, in the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="Mean ± standard deviation over the seeds", box=box.SIMPLE_HEAD)
    shown.add_column("run", no_wrap=True)
    for column in ("test accuracy", "validation loss", "FLOPs", "examples"):
        shown.add_column(column, justify="right", no_wrap=True)
    for name in seeds[0]:
        of = lambda key, name=name: [seed[name][key] for seed in seeds]
        shown.add_row(
            name,
            mean_spread([100 * share for share in of("test_accuracy")], 2) + " %",
            mean_spread(of("validation_loss"), 4),
            si(statistics.mean(of("flops"))),
            f"{statistics.mean(of('examples')):,.0f}",
        )
    Console(highlight=False).print(shown)
