"""How good advice is: on small tasks, the loss of following it against the best that was there.

trainkit train regret                            all tasks; the same command goes on
trainkit train regret --tasks digits --steps 8000
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.options import check
from experiments.progressive_lm.frontier import mean_error, spent_to
from experiments.regret.judges import Judges
from experiments.regret.tasks import TASKS, Task
from trainkit._core.run_files import read_json, write_whole
from trainkit.progressive import Advice, Stage, advise, triggers
from trainkit.progressive.advice.choices import Choice, grown
from trainkit.progressive.advice.probes import Prober
from trainkit.progressive.stages.prepared import Recipe
from trainkit.progressive.transition.grow import grown as grow

RESULTS, RUNS = "results.json", "runs.json"
DECAY, WARMUP = 0.2, 10
# Seeds of the runs that judge are others than those of the probes.
JUDGES = 100
# Budgets that a choice's curve is known at, as shares of the whole.
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """Ask for advice on each task, run all choices at the budget, and say what the advice lost.

    Sizes alone, and growing at every time in `grow_at` and at that of the advice, each with other
    seeds than the probes. Regret is the mean loss of the advised choice less the lowest mean there
    is; in FLOPs, the share that the best choice would have needed less for the advised one's loss.
    It is also said for whoever runs every choice once to the end, and takes the best.
    """

    tasks: tuple[str, ...] = ()
    """Only tasks whose names have one of these in them."""
    steps: int = 8000
    """The budget, in steps of the largest model."""
    share: float = 0.2
    """Of the budget, for the probes."""
    seeds: int = 8
    """Of the runs that judge; the probes have one, another."""
    grow_at: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Shares of the budget at which growing is tried, to be compared with the advice."""
    out: str = "runs/regret"
    """The folder for the numbers; the same command again runs what is missing."""

    def __post_init__(self) -> None:
        check(self, "steps", "share", "seeds", "grow_at")
        if self.seeds < 2:
            raise ValueError("--seeds must be at least 2: one is held against the others.")
        if wrong := [at for at in self.grow_at if at >= 1 - DECAY]:
            raise ValueError(f"--grow-at has {wrong}; growing comes before the decay, at 0.8.")


def run(config: Config) -> list[dict[str, Any]]:
    """Does what is missing, prints a table, and returns its rows."""
    chosen = [t for t in TASKS if not config.tasks or any(part in t.name for part in config.tasks)]
    if not chosen:
        names = ", ".join(task.name for task in TASKS)
        raise ValueError(f"--tasks names none of the tasks, which are: {names}.")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    options = {k: getattr(config, k) for k in ("steps", "share", "seeds", "grow_at")}
    setting = json.loads(json.dumps(options))
    content = read_json(out / RESULTS) or {"setting": setting, "tasks": {}}
    if content["setting"] != setting:
        raise ValueError(f"{out / RESULTS} is of other options; give another --out.")
    for number, task in enumerate(chosen):
        if task.name not in content["tasks"]:
            print(f"{task.name} ({number + 1} of {len(chosen)})", flush=True)
            content["tasks"][task.name] = judged(task, config, out)
            write_whole(out / RESULTS, json.dumps(content, indent=1))
        print(line(task.name, content["tasks"][task.name]), flush=True)
    rows = [content["tasks"][task.name] for task in chosen]
    print(summary(rows))
    return rows


def judged(task: Task, config: Config, out: Path) -> dict[str, Any]:
    """The advice on a task, and what every choice really came to."""
    folder = out / task.name.replace(", ", "-")
    loader, held = task.loader()
    # The probes evaluate on few examples, whose FLOPs are counted; what judges, on all.
    few = [jax.tree.map(lambda x: x[: max(1, len(x) // 8)], batch) for batch in held]
    stages = task.stages()
    first = dataclasses.replace(stages[0], until=triggers.advised())
    recipe = Recipe(
        task.build, task.tx, loader(0), held, grow, seed=0, warmup=WARMUP, certify=False
    )
    prober = Prober(recipe, DECAY, "loss")
    budget = config.steps * prober.prepared(stages[-1]).flops_per_step
    advice = advise(
        [first, stages[-1]], task.build, task.tx, loader(0), few, flops=budget,
        share=config.share, alone=stages, warmup=WARMUP, decay=DECAY, progress=False, out=folder,
    )  # fmt: skip
    print(f"  {advice.sentence}", flush=True)
    choices = choices_of(prober, stages, advice, config.grow_at, budget)
    judges = Judges(prober, loader, range(JUDGES, JUDGES + config.seeds))
    found = read_json(folder / RUNS)
    for choice in choices:
        # By its steps too: names have rounded shares.
        key = f"{choice.name}, {choice.steps} steps, {config.seeds} seeds"
        if key not in found:
            flops, losses = judges.train(choice, [share * budget for share in SHARES])
            found[key] = {"grows": choice.grows, "flops": flops, "losses": losses.tolist()}
            write_whole(folder / RUNS, json.dumps(found, indent=1))
    keys = {f"{one.name}, {one.steps} steps, {config.seeds} seeds": one.name for one in choices}
    return regret_of(advice, {keys[key]: one for key, one in found.items() if key in keys})


def choices_of(
    prober: Prober, stages: Sequence[Stage], advice: Advice, times: Sequence[float], budget: float
) -> list[Choice]:
    """Every size, growing at every time, and what is advised of growing."""
    first = prober.prepared(stages[0])
    found = [Choice(str(stage.name), (stage,)) for stage in stages]
    for share in times:
        steps = max(1, round(share * budget / first.flops_per_step))
        names = str(stages[0].name), str(stages[-1].name)
        found.append(grown(stages[0], stages[-1], steps, share, names))
    return [*found, advice.growth.choice]


def regret_of(advice: Advice, found: dict[str, Any]) -> dict[str, Any]:
    """What was advised and what was best, as JSON holds it.

    Args:
      advice: the advice.
      found: name -> whether it "grows", "flops" [budgets], "losses" [seeds, budgets].
    """
    means = {name: float(np.mean(last(one))) for name, one in found.items()}
    advised, best = advice.best.choice.name, lowest(means)
    alone = min(means[name] for name, one in found.items() if not one["grows"])
    growths = min(means[name] for name, one in found.items() if one["grows"])
    return {
        "advice": advice.to_json(),
        "advised": advised,
        "best": best,
        "losses": means,
        "errors": {name: mean_error(last(one))[1] for name, one in found.items()},
        "regret": means[advised] - means[best],
        "regret_flops": wasted(advised, found, range(len(last(found[best])))),
        "one_run_each": one_run_each(found),
        "growing_below": alone - growths,
        "inside": [
            one.low <= means[one.choice.name] <= one.high
            for one in advice.expected
            if one.choice.name in means
        ],
        "all": found,
    }


def last(one: dict[str, Any]) -> list[float]:
    """The losses of all seeds at the largest budget."""
    return [losses[-1] for losses in one["losses"]]


def lowest(losses: dict[str, float]) -> str:
    """The name of the lowest loss; what diverged is not it."""
    return min(losses, key=lambda name: (not math.isfinite(losses[name]), losses[name]))


def wasted(chosen: str, found: dict[str, Any], seeds: Sequence[int]) -> float:
    """The share of the FLOPs that the best choice would have needed less for the chosen one's loss.

    Args:
      chosen: its name.
      found: as for `regret_of`.
      seeds: the runs whose mean losses are taken.
    """
    mean = lambda one: np.mean([one["losses"][seed] for seed in seeds], axis=0)
    ends = {name: float(mean(one)[-1]) for name, one in found.items()}
    best = lowest(ends)
    if chosen == best:
        return 0.0
    # A run may end worse than at a smaller budget, by chance or because it overfits.
    flops = found[best]["flops"]
    return max(0.0, 1 - spent_to(ends[chosen], flops, mean(found[best]))[0] / flops[-1])


def one_run_each(found: dict[str, Any]) -> float:
    """What is wasted by taking the best of one finished run of every choice, mean over seeds.

    Each seed chooses by itself and is held against the others: an adviser that spends the budget
    once for every choice does no better.
    """
    count = len(last(next(iter(found.values()))))
    shares = []
    for seed in range(count):
        chosen = lowest({name: last(one)[seed] for name, one in found.items()})
        shares.append(wasted(chosen, found, [k for k in range(count) if k != seed]))
    return float(np.mean(shares))


def line(name: str, row: dict[str, Any]) -> str:
    """A task in a line."""
    losses = row["losses"]
    return (
        f"{name:24} advised {row['advised'][:28]:28} {losses[row['advised']]:.4f}, best "
        f"{row['best'][:28]:28} {losses[row['best']]:.4f}: {row['regret_flops']:.1%} of the FLOPs, "
        f"{row['one_run_each']:.1%} by one run each"
    )


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """All tasks in some lines."""
    regrets = [row["regret_flops"] for row in rows]
    floor = [row["one_run_each"] for row in rows]
    grown = [row for row in rows if row["advice"]["grow"]]
    wrong = sum(row["growing_below"] <= 0 for row in grown)
    paid = sum(row["growing_below"] > 0 for row in rows)
    inside = [one for row in rows for one in row["inside"]]
    return (
        f"{len(rows)} tasks: regret {np.median(regrets):.1%} of the FLOPs (median), "
        f"{max(regrets):.1%} (worst); by one finished run of every choice "
        f"{np.median(floor):.1%} and {max(floor):.1%}. Growing was advised on {len(grown)}, "
        f"wrongly on {wrong}; it ended lowest on {paid}. {np.mean(inside):.0%} of {len(inside)} "
        "losses were inside their 95 % intervals."
    )
