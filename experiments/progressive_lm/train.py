"""Growing a character transformer: ways to grow at equal FLOPs, beside small and large.

trainkit train progressive_lm                no block, then two: the setting where growing pays
trainkit train progressive_lm --operators all --optimizers adamw muon --moments carry reset \\
    --small 8 3 --large 16 6 --grow-at 0.25 --budgets 0.5 1 --steps 240 --batch-size 8
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import optax

from experiments.options import check
from experiments.progressive_lm.frontier import Row
from experiments.progressive_lm.grid import Corpus, Grid, Sized, whole
from experiments.progressive_lm.model import Transformer
from experiments.progressive_lm.page import best_losses, label, page, table
from trainkit.data import shakespeare
from trainkit.progressive.kept_programs import keep_compiled

OPERATORS = {
    "identity": "uneven+identity",
    "stack": "uneven+stack",
    "interpose": "uneven+interpose",
    "middle": "uneven+middle",
    "even": "even+identity",
    "noise": "noise+identity",
    "zero_out": "zero_out+identity",
    "rms": "rms+identity",
    "stack_rms": "rms+stack",
}
RATES = dict.fromkeys(("adamw", "muon"), (0.003, 0.006, 0.012, 0.024, 0.048))
DECAY = 0.2  # the share of every budget over which the learning rate falls


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare ways to grow on Shakespeare, at equal FLOPs and with tuned learning rates.

    Each method is run over all seeds and learning rates in one program; the learning rate with the
    best mean is reported. The small model's FLOPs are counted. All runs end with a learning rate
    that has fallen to 0, at each of several budgets.
    """

    operators: tuple[str, ...] = ("identity",)
    """Of identity, stack, interpose, middle, even, noise, zero_out, rms, stack_rms; or all."""
    optimizers: tuple[Literal["adamw", "muon"], ...] = ("adamw",)
    """adamw, muon."""
    moments: tuple[Literal["carry", "reset"], ...] = ("carry",)
    """What becomes of the moments in a growth: carry, reset."""
    rewarm: int = 5
    """Steps over which new layers, and the rates of copied ones, come to the plain rate."""
    small: tuple[int, int] = (32, 0)
    """Width and depth that growing runs start with."""
    large: tuple[int, int] = (32, 2)
    """Width and depth that they end with."""
    controls: tuple[int, ...] = (1,)
    """Depths in between, each trained alone at the large one's width, as further baselines."""
    head_size: int = 8
    """Of attention; it divides all widths."""
    steps: int = 640
    """The largest budget, in steps of the large model."""
    budgets: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0)
    """The budgets to end at, as shares of the largest."""
    grow_at: tuple[float, ...] = (0.005, 0.02)
    """When to grow, as shares of the largest budget's FLOPs; each is a run of its own."""
    length: int = 32
    """Characters of an example."""
    batch_size: int = 16
    """Examples a step."""
    seeds: int = 3
    """How many runs of each kind."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from; some that suit the optimizer by default."""
    data: str | None = None
    """The folder that holds shakespeare/; the project's own by default."""
    out: str = "runs/progressive_lm"
    """The folder for the numbers and the report."""

    def __post_init__(self) -> None:
        check(
            self, "head_size", "steps", "budgets", "length", "batch_size", "seeds", "rates",
            least_0=("rewarm", "small", "large", "controls"),
        )  # fmt: skip
        unknown = sorted(set(self.operators) - {*OPERATORS, "all"})
        if unknown:
            raise ValueError(f"--operators has {unknown}; there are {', '.join(OPERATORS)}, all.")
        last = min(self.budgets) * (1 - DECAY)
        wrong = [share for share in self.grow_at if not 0 < share < last]
        if wrong:
            raise ValueError(
                f"--grow-at has {wrong}; growing must come before the first decay, at {last:g} of "
                "the largest budget."
            )


def run(config: Config) -> dict[str, Any]:
    """Runs the grid, prints and writes the numbers, and returns them."""
    names = list(OPERATORS) if "all" in config.operators else list(config.operators)
    corpus = Corpus.of(shakespeare(config.data), config.length, config.batch_size)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    keep_compiled(out.parent / ".compiled")
    rows: list[Row] = []
    content = {"config": dataclasses.asdict(config), "rows": rows}
    for optimizer in config.optimizers:
        for found in compare(config, optimizer, names, corpus):
            # After every method: the whole grid takes a while, and may be stopped.
            rows += found
            (out / "results.json").write_text(json.dumps(content, indent=2))
            (out / "report.html").write_text(page(rows))
    table(rows)
    print(f"Report: {out / 'report.html'}")
    return content


def compare(
    config: Config, optimizer: str, names: Sequence[str], corpus: Corpus
) -> Iterator[list[Row]]:
    """All runs of one optimizer, the rows of one method at a time."""
    rates = config.rates or RATES[optimizer]
    grid = Grid(corpus, transformation(optimizer), rates, config.seeds)
    width, depth = config.large
    model = lambda width, depth: Transformer(84, width, depth, config.head_size)
    small, large = (grid.sized(model(*size)) for size in (config.small, config.large))
    most = config.steps * large.flops
    budgets = [share * most for share in sorted(config.budgets)]
    made: list[tuple[Row, Sized, int]] = []

    def finish(size: Sized, states: Any, before: int = 0, **about: Any) -> list[Row]:
        """Trains on after some steps of the small model, and ends at each budget in turn."""
        done, rows, spent = 0, [], before * small.flops
        for budget in budgets:
            more = whole((budget * (1 - DECAY) - spent) / size.flops)
            states, done, spent = size.train(states, more), done + more, spent + more * size.flops
            decay = whole((budget - spent) / size.flops)
            ended = size.train(grid.decaying(states, decay), decay)
            best, numbers = best_losses(size.measure(ended))
            row = {
                "optimizer": optimizer,
                "moments": "",
                **about,
                "flops": spent + decay * size.flops,
                "flops_small": before * small.flops,
                "steps": done + decay,
                "rate": rates[best],
                **numbers,
            }
            rows.append(row)
            made.append((row, size, before))
            print(
                f"{optimizer} {label(row)}: loss {row['loss']:.4f} ± {row['spread']:.4f} at "
                f"{row['flops']:.2e} FLOPs, rate {row['rate']:g}",
                flush=True,
            )
        # By the median time of a step of each model, which does not see what else the machine did;
        # of all rows anew, so that they are compared by the same times.
        for row, size, before in made:
            already = before * small.train.seconds_per_step() if before else 0.0
            row["seconds"] = already + row["steps"] * size.train.seconds_per_step()
        return rows

    alone = {"small": small, "large": large}
    for blocks in config.controls:
        if config.small[1] < blocks < depth:
            alone[f"{blocks} block{'s' if blocks > 1 else ''}"] = grid.sized(model(width, blocks))
    # All at once: a table without its baselines says nothing.
    yield [
        r for k, size in alone.items() for r in finish(size, grid.fresh(size.prepared), method=k)
    ]
    trunk, done = grid.fresh(small.prepared), 0
    for share in sorted(config.grow_at):
        before = whole(share * most / small.flops)
        trunk, done = small.train(trunk, before - done) if before > done else trunk, before
        for name in names:
            for moments in config.moments:
                options = {"moments": moments, "rewarm": config.rewarm, "anneal": config.rewarm}
                big = grid.prepared(model(*config.large), how=OPERATORS[name], **options)
                states = grid.grow(small.prepared, big, trunk)
                about = {
                    "method": name,
                    "moments": moments,
                    "grow_at": before * small.flops,
                    "jump": float((large.measure(states) - small.measure(trunk)).mean()),
                }
                yield finish(large, states, before, **about)


def transformation(optimizer: str) -> optax.GradientTransformation:
    """The rule with a learning rate of 1, which the pace multiplies."""
    if optimizer == "adamw":
        return optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.01)
        )
    return optax.contrib.muon(1.0, weight_decay=0.01)
