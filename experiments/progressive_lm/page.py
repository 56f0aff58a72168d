"""What `progressive_lm` found, in the terminal and on a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.progressive_lm.frontier import BASELINES, Row, below, curve, summary
from trainkit.report.growth import rows_html
from trainkit.report.html import STYLE
from trainkit.report.plots import Curve, plot

WORDS = """
<p>Every method ends at each of several budgets, with a learning rate that has fallen to 0 by then
and that is the best of those tried for this method and budget; the FLOPs of the small stage are
counted. Seeds are paired: the same initial small model and the same batches. “Saved” is against
what the baseline spends to the same loss, interpolated between its budgets, mean ± standard
deviation over seeds; “&gt;” where its largest budget does not get there, so that the true share
is larger, and “&lt;” where its smallest is better already.</p>
"""


def label(row: Row) -> str:
    """A method in a few words."""
    return " ".join(str(word) for word in (row["method"], row["moments"], _at(row)) if word)


def _at(row: Row) -> str:
    return f"at {row['grow_at']:.3g}" if row.get("grow_at") else ""


def cells(row: Row) -> dict[str, str]:
    """A row of the table."""
    shown = {
        "optimizer": row["optimizer"],
        "method": label(row),
        "FLOPs": f"{row['flops']:.3g}",
        "rate": f"{row['rate']:g}",
        "loss": f"{row['loss']:.4f} ± {row['spread']:.4f}",
    }
    if row["method"] in BASELINES:
        return shown
    return shown | {
        "below both": "{:+.4f} ± {:.4f}".format(*row["below"]),
        "saved against large": str(row["saved_large"]),
        "small stage sunk": str(row["saved_large_sunk"]),
        "seconds": str(row["saved_large_seconds"]),
        "saved against small": str(row["saved_small"]),
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
    figures = []
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        mine = [row for row in rows if row["optimizer"] == optimizer]
        methods: dict[str, list[Row]] = {}
        for row in mine:
            methods.setdefault(label(row), []).append(row)
        figures += [_losses(optimizer, methods), _gaps(optimizer, mine, methods)]
    shown = [cells(row) for row in summary(rows)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Growing a character transformer</title><style>{STYLE}</style></head><body>"
        f"<h1>Growing a character transformer, at equal FLOPs</h1>{WORDS}"
        f'<div class="plots wide">{"".join(f for f in figures if f)}</div>{rows_html(shown)}'
        "</body></html>\n"
    )


def _losses(optimizer: str, methods: dict[str, list[Row]]) -> str:
    curves = [
        Curve(name, [r["flops"] for r in part], [r["loss"] for r in part], points=True)
        for name, part in methods.items()
    ]
    svg = plot(
        curves,
        title=f"Validation loss, {optimizer}",
        x_label="FLOPs",
        log_x=True,
        size=(6.4, 4.4),
    )
    return f"<figure>{svg}</figure>"


def _gaps(optimizer: str, rows: Sequence[Row], methods: dict[str, list[Row]]) -> str:
    """How far growing lies below the better of the two baselines; above 0 is ahead of both."""
    baselines = [curve(rows, name, optimizer) for name in BASELINES]
    grown = {n: part for n, part in methods.items() if part[0]["method"] not in BASELINES}
    if not (grown and all(baselines)):
        return ""
    curves = [
        Curve(n, [r["flops"] for r in part], [below(r, baselines)[0] for r in part], points=True)
        for n, part in grown.items()
    ]
    ends = [float(f(r["flops"] for r in rows if r["method"] in BASELINES)) for f in (min, max)]
    curves.append(Curve("the better baseline", ends, [0.0, 0.0]))
    svg = plot(
        curves,
        title=f"Below the envelope of small and large, {optimizer}",
        x_label="FLOPs",
        log_x=True,
        size=(6.4, 4.4),
    )
    return f"<figure>{svg}</figure>"


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
