"""Growing a character transformer: operators of growth at equal FLOPs, beside small and large.

trainkit train progressive_lm                                   a few operators, on two CPU cores
trainkit train progressive_lm --operators all --optimizers adamw muon --moments carry reset
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optax

from experiments.progressive_lm.grid import Corpus, Grid, whole
from experiments.progressive_lm.model import Transformer
from trainkit.data import shakespeare
from trainkit.report.plots import Curve, plot

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
RATES = {"adamw": (3e-3, 1e-2, 3e-2), "muon": (3e-3, 1e-2, 3e-2)}
DECAY = 0.2  # the share of every budget over which the learning rate falls


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare operators of growth on Shakespeare, at equal FLOPs and with tuned learning rates.

    Each method is run over all seeds and learning rates in one program; the learning rate with the
    best mean is reported. The small model's FLOPs are counted. All runs end with a learning rate
    that has fallen to 0, at each of several budgets.
    """

    operators: tuple[str, ...] = ("identity", "stack", "rms", "even")
    """Of identity, stack, interpose, middle, even, noise, zero_out, rms, stack_rms; or all."""
    optimizers: tuple[Literal["adamw", "muon"], ...] = ("adamw",)
    """adamw, muon."""
    moments: tuple[Literal["carry", "reset"], ...] = ("carry",)
    """What becomes of the moments in a growth: carry, reset."""
    rewarm: int = 40
    """Steps over which new layers, and the rates of copied ones, come to the plain rate."""
    small: tuple[int, int] = (16, 2)
    """Width and depth that growing runs start with."""
    large: tuple[int, int] = (32, 4)
    """Width and depth that they end with."""
    steps: int = 400
    """The largest budget, in steps of the large model."""
    budgets: tuple[float, ...] = (0.5, 1.0)
    """The budgets to end at, as shares of the largest."""
    grow_at: float = 0.25
    """When to grow, as a share of the largest budget's FLOPs."""
    length: int = 32
    """Characters of an example."""
    batch_size: int = 8
    """Examples a step."""
    seeds: int = 3
    """How many runs of each kind."""
    data: str | None = None
    """The folder that holds shakespeare/; the project's own by default."""
    out: str = "runs/progressive_lm"
    """The folder for the numbers and the report."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.operators) - {*OPERATORS, "all"})
        if unknown:
            raise ValueError(f"--operators has {unknown}; there are {', '.join(OPERATORS)}, all.")
        if not 0 < self.grow_at < min(self.budgets) * (1 - DECAY):
            raise ValueError(
                f"--grow-at is {self.grow_at}; it must lie before the first decay, at "
                f"{min(self.budgets) * (1 - DECAY):g} of the largest budget."
            )


def run(config: Config) -> dict[str, Any]:
    """Runs the grid, prints and writes the numbers, and returns them."""
    names = list(OPERATORS) if "all" in config.operators else list(config.operators)
    corpus = Corpus.of(shakespeare(config.data), config.length, config.batch_size)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
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
) -> Iterator[list[dict[str, Any]]]:
    """All runs of one optimizer, the rows of one method at a time."""
    grid = Grid(corpus, transformation(optimizer), RATES[optimizer], config.seeds)
    model = lambda size: Transformer(84, *size)
    small, large = grid.built(model(config.small)), grid.built(model(config.large))
    cost = grid.flops(small), grid.flops(large)
    most = config.steps * cost[1]
    budgets = [share * most for share in config.budgets]
    training = grid.trainer(small), grid.trainer(large)
    measure = grid.evaluator(small), grid.evaluator(large)

    def finish(
        name: str, states: Any, spent: float, which: int, moments: str = ""
    ) -> list[dict[str, Any]]:
        """Trains on from states that cost `spent`, and ends at each budget in turn."""
        begin, train, rows = time.perf_counter(), training[which], []
        for budget in budgets:
            until = whole((budget * (1 - DECAY) - spent) / cost[which])
            states = train(states, until)
            spent += until * cost[which]
            decay = whole((budget - spent) / cost[which])
            losses = measure[which](train(grid.decaying(states, decay), decay))
            best = int(np.argmin(losses.mean(1)))
            rows.append(
                {
                    "method": name,
                    "optimizer": optimizer,
                    "moments": moments,
                    "flops": spent + decay * cost[which],
                    "rate": grid.rates[best],
                    "loss": float(losses[best].mean()),
                    "spread": float(losses[best].std(ddof=1)) if config.seeds > 1 else 0.0,
                    "losses": losses.tolist(),
                }
            )
        seconds = time.perf_counter() - begin
        last = rows[-1]
        print(
            f"{optimizer} {name} {moments}: loss {last['loss']:.4f} ± {last['spread']:.4f} "
            f"at {last['flops']:.2e} FLOPs, rate {last['rate']:g} ({seconds:.0f} s)",
            flush=True,
        )
        return rows

    yield finish("small", grid.fresh(small), 0.0, 0)
    yield finish("large", grid.fresh(large), 0.0, 1)
    before = whole(config.grow_at * most / cost[0])
    trunk = training[0](grid.fresh(small), before)
    for name in names:
        for moments in config.moments:
            big = grid.built(
                model(config.large),
                how=OPERATORS[name],
                moments=moments,
                rewarm=config.rewarm,
                anneal=config.rewarm,
            )
            states = grid.grow(small, big, trunk)
            jump = float(np.mean(measure[1](states) - measure[0](trunk)))
            rows = finish(name, states, before * cost[0], 1, moments)
            yield [row | {"jump": jump} for row in rows]


def transformation(optimizer: str) -> optax.GradientTransformation:
    """The rule with a learning rate of 1, which the pace multiplies."""
    if optimizer == "adamw":
        return optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.01)
        )
    return optax.contrib.muon(1.0, weight_decay=0.01)


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Loss by method and budget, and FLOPs saved against small and large, in the terminal."""
    for row in summary(rows):
        print(
            f"{row['optimizer']:6} {row['method']:10} {row['moments']:6} {row['flops']:.2e} FLOPs  "
            f"loss {row['loss']:.4f} ± {row['spread']:.4f}  against large {row['to_large']:+.4f}, "
            f"small {row['to_small']:+.4f}"
        )


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its loss minus those of both baselines at its FLOPs.

    Budgets are met to within some steps; between two of them a baseline's loss is taken to be
    linear in log FLOPs.

    >>> rows = [{"method": m, "optimizer": "a", "flops": 1.0, "loss": loss}
    ...         for m, loss in (("small", 2.0), ("large", 3.0), ("stack", 1.5))]
    >>> summary(rows)[2]["to_small"], summary(rows)[2]["to_large"]
    (-0.5, -1.5)
    """

    def baseline(name: str, row: dict[str, Any]) -> float:
        same = [r for r in rows if r["method"] == name and r["optimizer"] == row["optimizer"]]
        if not same:
            return math.nan
        at, losses = [np.log(r["flops"]) for r in same], [r["loss"] for r in same]
        return float(np.interp(np.log(row["flops"]), at, losses))

    return [
        row
        | {
            "to_small": row["loss"] - baseline("small", row),
            "to_large": row["loss"] - baseline("large", row),
        }
        for row in rows
    ]


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The iso-FLOP curves and the table, as one HTML file."""
    from trainkit.report.growth import rows_html
    from trainkit.report.html import STYLE

    figures = []
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        curves = []
        mine = [row for row in rows if row["optimizer"] == optimizer]
        for key in dict.fromkeys((row["method"], row["moments"]) for row in mine):
            part = [row for row in mine if (row["method"], row["moments"]) == key]
            label = " ".join(word for word in key if word)
            curves.append(
                Curve(label, [r["flops"] for r in part], [r["loss"] for r in part], points=True)
            )
        svg = plot(curves, title=f"Validation loss, {optimizer}", x_label="FLOPs", size=(7.5, 5.0))
        figures.append(f"<figure>{svg}</figure>")
    shown = [
        {
            "optimizer": row["optimizer"],
            "method": row["method"],
            "moments": row["moments"],
            "FLOPs": f"{row['flops']:.3g}",
            "learning rate": f"{row['rate']:g}",
            "loss": f"{row['loss']:.4f} ± {row['spread']:.4f}",
            "against small": f"{row['to_small']:+.4f}",
            "against large": f"{row['to_large']:+.4f}",
            "jump at growth": f"{row['jump']:+.4f}" if "jump" in row else "",
        }
        for row in summary(rows)
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Operators of growth</title><style>{STYLE}</style></head><body>"
        "<h1>Operators of growth, at equal FLOPs</h1>"
        f"{''.join(figures)}{rows_html(shown)}</body></html>\n"
    )
