"""Late growth: no blocks at all until 60 or 80 % of the run, then all of them at once.

trainkit train late_growth
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.options import check
from experiments.progressive_lm.config import transformation
from experiments.progressive_lm.grid import Corpus, Grid
from experiments.progressive_lm.methods import Rates, best_rate
from experiments.progressive_lm.model import Transformer
from experiments.progressive_lm.phases import whole
from trainkit._core import units
from trainkit._core.run_files import write_whole
from trainkit._core.units import mean_spread
from trainkit.data import shakespeare

RATES = (0.003, 0.006, 0.012, 0.024, 0.048)


@dataclasses.dataclass(frozen=True)
class Config:
    """Grow a transformer from zero or one block to all of them late in a stable phase.

    Every run takes the same number of steps (not FLOPs: late growth saves those), with a learning
    rate that is constant and falls to 0 over the last fifth. Reported are the loss against the
    full model's, and the share of its FLOPs that was spent: nothing is saved to the same loss.
    """

    width: int = 32
    """Of all models."""
    depth: int = 4
    """Blocks of the full model."""
    starts: tuple[int, ...] = (0, 1)
    """With how many blocks to begin."""
    shares: tuple[float, ...] = (0.6, 0.8)
    """At which shares of the steps to grow."""
    steps: int = 300
    """Of every run."""
    rewarm: int = 20
    """Steps over which the new blocks warm up."""
    length: int = 32
    """Characters of an example."""
    batch_size: int = 8
    """Examples a step."""
    seeds: int = 3
    """How many runs of each kind."""
    data: str | None = None
    """The folder that holds shakespeare/; the project's own by default."""
    out: str = "runs/late_growth"
    """The folder for the numbers."""

    def __post_init__(self) -> None:
        check(
            self, "width", "depth", "steps", "length", "batch_size", "seeds",
            least_0=("starts", "rewarm"),
        )  # fmt: skip
        wrong = [share for share in self.shares if not 0 < share <= 0.8]
        if wrong:
            raise ValueError(
                f"--shares has {wrong}; a growth must come before the decay, which begins at 0.8."
            )


def run(config: Config) -> list[dict[str, Any]]:
    """Trains all of them, prints and writes the numbers, and returns them."""
    corpus = Corpus.of(shakespeare(config.data), config.length, config.batch_size)
    grid = Grid(corpus, transformation("adamw"), range(config.seeds))
    model = lambda depth: Transformer(84, config.width, depth)
    full = grid.prepared(model(config.depth))
    train, measure, cost = grid.trainer(full), grid.evaluator(full), grid.flops(full)
    decay = whole(0.2 * config.steps)

    def end(states: Any, left: int) -> np.ndarray:
        if left:
            states = train(states, left)
        return measure(train(grid.decaying(states, decay), decay))

    stable = whole(0.8 * config.steps)
    rows = [row("from scratch", end(grid.fresh(full, RATES), stable), (stable + decay) * cost)]
    for start in config.starts:
        small = grid.prepared(model(start))
        trunk, price = grid.trainer(small), grid.flops(small)
        states, done = grid.fresh(small, RATES), 0
        alone = trunk(states, stable)
        alone = grid.evaluator(small)(trunk(grid.decaying(alone, decay), decay))
        rows.append(row(f"{start} blocks alone", alone, (stable + decay) * price))
        for share in sorted(config.shares):
            at = whole(share * config.steps)
            states, done = trunk(states, at - done), at
            big = grid.prepared(model(config.depth), rewarm=config.rewarm)
            losses = end(grid.grow(small, big, states), stable - at)
            flops = at * price + (stable + decay - at) * cost
            rows.append(row(f"{start} blocks until {share:.0%}", losses, flops))
    for r in rows:
        r["flops_share"] = r["flops"] / rows[0]["flops"]
        r["gap"] = r["loss"] / rows[0]["loss"] - 1
        print(
            f"{r['method']:22} loss {mean_spread(r['losses'])} ({r['gap']:+.2%}), "
            f"{units.flops(r['flops'])} ({r['flops_share']:.0%} of scratch), rate {r['rate']:g}"
        )
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    content = {"config": dataclasses.asdict(config), "rows": rows}
    write_whole(out / "results.json", json.dumps(content, indent=2))
    return rows


def row(method: str, losses: np.ndarray, flops: float) -> dict[str, Any]:
    """The numbers of a method at its best learning rate."""
    best = best_rate(losses, Rates(RATES, None, RATES), 0)
    return {
        "method": method,
        "loss": float(losses[best].mean()),
        "losses": losses[best].tolist(),
        "flops": flops,
        "rate": RATES[best],
    }
