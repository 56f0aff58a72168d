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
from experiments.progressive_lm.grid import Corpus, Grid, whole
from experiments.progressive_lm.model import Transformer
from experiments.progressive_lm.train import RATES, transformation
from trainkit.data import shakespeare
from trainkit.progressive.kept_programs import keep_compiled


@dataclasses.dataclass(frozen=True)
class Config:
    """Grow a transformer from zero or one block to all of them late in a stable phase.

    Every run takes the same number of steps (not FLOPs: late growth saves those), with a learning
    rate that is constant and falls to 0 over the last fifth. Reported are the loss against the
    full model's, and the FLOPs that were saved.
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
    keep_compiled(Path(config.out).parent / ".compiled")
    corpus = Corpus.of(shakespeare(config.data), config.length, config.batch_size)
    grid = Grid(corpus, transformation("adamw"), RATES["adamw"], config.seeds)
    model = lambda depth: Transformer(84, config.width, depth)
    full = grid.prepared(model(config.depth))
    train, measure, cost = grid.trainer(full), grid.evaluator(full), grid.flops(full)
    decay = whole(0.2 * config.steps)

    def end(states: Any, left: int) -> np.ndarray:
        if left:
            states = train(states, left)
        return measure(train(grid.decaying(states, decay), decay))

    stable = whole(0.8 * config.steps)
    rows = [row("from scratch", end(grid.fresh(full), stable), (stable + decay) * cost, grid)]
    for start in config.starts:
        small = grid.prepared(model(start))
        trunk, price = grid.trainer(small), grid.flops(small)
        states, done = grid.fresh(small), 0
        alone = trunk(states, stable)
        alone = grid.evaluator(small)(trunk(grid.decaying(alone, decay), decay))
        rows.append(row(f"{start} blocks alone", alone, (stable + decay) * price, grid))
        for share in sorted(config.shares):
            at = whole(share * config.steps)
            states, done = trunk(states, at - done), at
            big = grid.prepared(model(config.depth), rewarm=config.rewarm)
            losses = end(grid.grow(small, big, states), stable - at)
            flops = at * price + (stable + decay - at) * cost
            rows.append(row(f"{start} blocks until {share:.0%}", losses, flops, grid))
    for r in rows:
        r["saved"] = 1 - r["flops"] / rows[0]["flops"]
        r["gap"] = r["loss"] / rows[0]["loss"] - 1
        print(
            f"{r['method']:22} loss {r['loss']:.4f} ± {r['spread']:.4f} ({r['gap']:+.2%}), "
            f"{r['flops']:.3g} FLOPs ({r['saved']:.0%} saved), rate {r['rate']:g}"
        )
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    content = {"config": dataclasses.asdict(config), "rows": rows}
    (out / "results.json").write_text(json.dumps(content, indent=2))
    return rows


def row(method: str, losses: np.ndarray, flops: float, grid: Grid) -> dict[str, Any]:
    """The numbers of a method at its best learning rate."""
    best = int(np.argmin(losses.mean(1)))
    return {
        "method": method,
        "loss": float(losses[best].mean()),
        "spread": float(losses[best].std(ddof=1)) if losses.shape[1] > 1 else 0.0,
        "flops": flops,
        "rate": grid.rates[best],
    }
