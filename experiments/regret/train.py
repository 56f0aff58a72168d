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
from experiments.progressive_lm.frontier import spent_to
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


@dataclasses.dataclass(frozen=True)
class Config:
    """Ask for advice on each task, run all choices at the budget, and say what the advice lost.

    Sizes alone, and growing at every time in `grow_at` and at that of the advice, each with other
    seeds than the probes. Regret is the mean loss of the advised choice less the lowest mean there
    is; in FLOPs, the share that the best choice would have needed less for the advised one's loss.
    """

    tasks: tuple[str, ...] = ()
    """Only tasks whose names have one of these in them."""
    steps: int = 8000
    """The budget, in steps of the largest model."""
    share: float = 0.2
    """Of the budget, for the probes."""
    seeds: int = 2
    """Of the runs that judge; the probes have one, another."""
    grow_at: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Shares of the budget at which growing is tried, to be compared with the advice."""
    out: str = "runs/regret"
    """The folder for the numbers; the same command again runs what is missing."""

    def __post_init__(self) -> None:
        check(self, "steps", "share", "seeds", "grow_at")
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
    folder = task.name.replace(", ", "-")
    sampler, held = task.sampler()
    # The probes evaluate on few examples, whose FLOPs are counted; what judges, on all.
    few = [jax.tree.map(lambda x: x[: max(1, len(x) // 8)], batch) for batch in held]
    names = size_names(task.sizes)
    stages = [Stage(model, name=name) for model, name in zip(task.sizes, names, strict=True)]
    first = dataclasses.replace(stages[0], until=triggers.advised())
    recipe = Recipe(
        task.build, task.tx, lambda _: sampler, held, grow, seed=0, warmup=WARMUP, certify=False
    )
    prober = Prober(recipe, DECAY, "loss")
    budget = config.steps * prober.prepared(stages[-1]).flops_per_step
    advice = advise(
        [first, stages[-1]], task.build, task.tx, sampler, few, flops=budget, share=config.share,
        alone=stages, warmup=WARMUP, decay=DECAY, progress=False,
        out=out / folder,
    )  # fmt: skip
    print(f"  {advice.sentence}", flush=True)
    choices = choices_of(prober, stages, advice, config.grow_at, budget)
    found = read_json(out / folder / RUNS)
    for choice in choices:
        # By its steps too: names have rounded shares.
        key = f"{choice.name}, {choice.steps} steps, {config.seeds} seeds"
        if key not in found:
            runs = [
                prober.train(choice, JUDGES + seed, [budget / 4, budget / 2, budget])
                for seed in range(config.seeds)
            ]
            losses = [one.losses for one in runs]
            found[key] = {"grows": choice.grows, "flops": runs[0].flops, "losses": losses}
            write_whole(out / folder / RUNS, json.dumps(found, indent=1))
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
    """What was advised and what was best, as JSON holds it."""
    means = {
        name: float(np.mean([run[-1] for run in one["losses"]])) for name, one in found.items()
    }
    best = min(means, key=lambda name: (not math.isfinite(means[name]), means[name]))
    advised = advice.best.choice.name
    flops, curve = found[best]["flops"], np.mean(found[best]["losses"], axis=0)
    # A run may end worse than at a smaller budget, by chance or because it overfits.
    spent = flops[-1] if advised == best else spent_to(means[advised], flops, curve)[0]
    alone = min(means[name] for name, one in found.items() if not one["grows"])
    growths = min(means[name] for name, one in found.items() if one["grows"])
    return {
        "advice": advice.to_json(),
        "advised": advised,
        "best": best,
        "losses": means,
        "regret": means[advised] - means[best],
        "regret_flops": max(0.0, 1 - spent / flops[-1]),
        "growing_below": alone - growths,
        "inside": [
            one.low <= means[one.choice.name] <= one.high
            for one in advice.expected
            if one.choice.name in means
        ],
        "all": found,
    }


def line(name: str, row: dict[str, Any]) -> str:
    """A task in a line."""
    losses = row["losses"]
    return (
        f"{name:24} advised {row['advised'][:28]:28} {losses[row['advised']]:.4f}, best "
        f"{row['best'][:28]:28} {losses[row['best']]:.4f}: {row['regret_flops']:.1%} of the FLOPs"
    )


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """All tasks in some lines."""
    regrets = [row["regret_flops"] for row in rows]
    grown = [row for row in rows if row["advice"]["grow"]]
    wrong = sum(row["growing_below"] <= 0 for row in grown)
    paid = sum(row["growing_below"] > 0 for row in rows)
    inside = [one for row in rows for one in row["inside"]]
    return (
        f"{len(rows)} tasks: regret {np.median(regrets):.1%} of the FLOPs (median), "
        f"{max(regrets):.1%} (worst). Growing was advised on {len(grown)}, wrongly on {wrong}; it "
        f"ended lowest on {paid}. {np.mean(inside):.0%} of {len(inside)} losses were inside their "
        "95 % intervals."
    )


def size_names(sizes: Sequence[Any]) -> list[str]:
    """What tells the sizes of a task apart.

    >>> from experiments.regret.tasks import MLP
    >>> size_names([MLP((24,), 10), MLP((24, 24), 10)])
    ['24', '24-24']
    """
    if hasattr(sizes[0], "hidden"):
        return ["-".join(map(str, model.hidden)) for model in sizes]
    blocks = len({model.depth for model in sizes}) == len(sizes)
    return [f"{m.depth} blocks" if blocks else f"width {m.width}" for m in sizes]
