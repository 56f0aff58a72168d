"""What `progressive_lm` found, in the terminal and on a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.progressive_lm.frontier import Row, baselines, below, summary
from trainkit._core.units import si
from trainkit.report.html import STYLE
from trainkit.report.plots import Curve, plot
from trainkit.report.tables import rows_html

WORDS = """
<p>Every method ends at each of several budgets, with a learning rate that has fallen to 0 by then
and that is the best of those tried for this method and budget; the FLOPs of the small stage are
counted. Seeds are paired: the same initial small model and the same batches. “Saved” is against
what the baseline spends to the same loss, interpolated between its budgets, mean ± standard
deviation over seeds; “&gt;” where its largest budget does not get there, so that the true share
is larger, “&lt;” where its smallest is better already, “no telling” where such a bound says
nothing. “Below” is how far the loss lies below the best of the baselines at the same FLOPs.</p>
"""


def label(row: Row) -> str:
    """A method in a few words."""
    return " ".join(str(word) for word in (row["method"], row["moments"], _at(row)) if word)


def _at(row: Row) -> str:
    return f"at {si(row['grow_at'])}" if row.get("grow_at") else ""


def cells(row: Row) -> dict[str, str]:
    """A row of the table."""
    shown = {
        "optimizer": row["optimizer"],
        "method": label(row),
        "FLOPs": si(row["flops"]),
        "rate": f"{row['rate']:g}",
        "loss": f"{row['loss']:.4f} ± {row['spread']:.4f}",
    }
    if "below" not in row:
        return shown
    return shown | {
        "below": "{:+.4f} ± {:.4f}".format(*row["below"]),
        **{f"saved against {name}": str(found) for name, found in row["saved"].items()},
        "large, small stage sunk": str(row["sunk"]),
        "large, seconds": str(row["saved_seconds"]),
        "jump at growth": f"{row['jump']:+.4f}",
    }


def table(rows: Sequence[Row]) -> None:
    """All rows, in the terminal."""
    for row in summary(rows):
        shown = cells(row)
        words = [f"{shown.pop('optimizer'):6} {shown.pop('method'):24}"]
        print(*words, *(f"{name} {value}" for name, value in shown.items()), sep="  ")


def page(rows: Sequence[Row]) -> str:
    """The frontier and the table, as one HTML file."""
    parts = []
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        mine = [row for row in rows if row["optimizer"] == optimizer]
        methods: dict[str, list[Row]] = {}
        for row in mine:
            methods.setdefault(label(row), []).append(row)
        figures = _figures(methods, list(baselines(mine, optimizer).values()))
        shown = [{k: v for k, v in cells(row).items() if k != "optimizer"} for row in summary(mine)]
        parts.append(f'<h2>{optimizer}</h2><div class="plots">{figures}</div>{rows_html(shown)}')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Growing a character transformer</title><style>{STYLE}"
        ".plots { grid-template-columns: repeat(auto-fill, minmax(30rem, 1fr)); }</style></head>"
        f"<body><h1>Growing a character transformer, at equal FLOPs</h1>{WORDS}{''.join(parts)}"
        "</body></html>\n"
    )


def _figures(methods: dict[str, list[Row]], baseline: list[list[Row]]) -> str:
    """The loss of every method, and how far those that grow lie below the best baseline."""
    drawn = {"Validation loss": _curves(methods, lambda row: row["loss"])}
    grown = {name: part for name, part in methods.items() if part[0].get("grow_at")}
    if grown:
        spent = [row["flops"] for curve in baseline for row in curve]
        gaps = _curves(grown, lambda row: below(row, baseline)[0])
        level = Curve("the best baseline", [min(spent), max(spent)], [0.0, 0.0])
        drawn["Below the best baseline"] = [*gaps, level]
    plots = (
        plot(curves, title=title, x_label="FLOPs", log_x=True, size=(6.4, 4.4))
        for title, curves in drawn.items()
    )
    return "".join(f"<figure>{svg}</figure>" for svg in plots)


def _curves(methods: dict[str, list[Row]], value: Callable[[Row], float]) -> list[Curve]:
    return [
        Curve(name, [row["flops"] for row in part], [value(row) for row in part], points=True)
        for name, part in methods.items()
    ]


def best_losses(losses: np.ndarray) -> tuple[int, dict[str, Any]]:
    """Which rate is best by the mean over seeds, and its numbers; `losses` [rates, seeds].

    >>> best_losses(np.array([[3.0, 3.0], [1.0, 2.0]]))[1]["loss"]
    1.5
    """
    means = losses.mean(1)
    best = int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
    spread = float(losses[best].std(ddof=1)) if losses.shape[1] > 1 else 0.0
    numbers = {
        "loss": float(means[best]),
        "spread": spread,
        "losses": losses[best].tolist(),
        "all_losses": losses.tolist(),
    }
    return best, numbers
