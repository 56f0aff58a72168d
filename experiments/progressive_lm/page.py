"""What `progressive_lm` found, in the terminal and on a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.progressive_lm.frontier import Row, baselines, below, summary, trend
from trainkit._core import units
from trainkit._core.units import mean_spread, si
from trainkit.report.html import lead_html
from trainkit.report.plots import Curve, Event, plot
from trainkit.report.style import STYLE
from trainkit.report.tables import rows_html
from trainkit.report.tables import table as names_html

WORDS = """
<p>Every method ends at each of several budgets, with a learning rate that has fallen to 0 by then
and that is the best of those tried for this method and budget; the FLOPs of training are counted,
those of the small stage too. Seeds are paired: the same initial small model and the same batches.
“Saved” is against what the baseline spends to the same loss, interpolated between its budgets,
mean ± standard deviation over seeds; “&gt;” where its largest budget does not get there, so that
the true share is larger, “&lt;” where its smallest is better already, “no telling” where such a
bound says nothing; nothing where the methods cannot be compared. “Below” is how far the loss lies
below the best of the baselines at the same FLOPs.</p>
"""


def said(row: Row) -> str:
    """What a method came to, in a line."""
    return (
        f"{row['name'][:34]:34} {mean_spread(row['losses'], 3)} at {units.flops(row['flops'])}, "
        f"rate {row['rate']:g}"
    )


def cells(row: Row) -> dict[str, str]:
    """A row of the page's table."""
    shown = {
        "method": row["name"],
        "FLOPs": si(row["flops"]),
        "rate": f"{row['rate']:g} of {len(row['tried'])}",
        "validation loss": mean_spread(row["losses"]),
    }
    if "below" in row:
        shown["below"] = "{:+.4f} ± {:.4f}".format(*row["below"])
        shown |= {f"saved against {name}": str(found) for name, found in row["saved"].items()}
    if "jump" in row:
        shown["jump at growth"] = f"{row['jump']:+.4f}"
    return shown


def table(rows: Sequence[Row]) -> None:
    """The loss of every method at every budget, and what growing saved, in the terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        mine = [row for row in rows if row["optimizer"] == optimizer]
        seeds = len(mine[0]["losses"])
        title = f"Validation loss with {optimizer}, " + (
            f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
        )
        curves: dict[str, list[Row]] = {}
        for row in mine:
            curves.setdefault(row["name"], []).append(row)
        budgets = [units.flops(row["flops"]) for row in next(iter(curves.values()))]
        losses = {n: [mean_spread(x["losses"], 3) for x in curve] for n, curve in curves.items()}
        console.print(_grid(title, budgets, losses))
        for row in summary(mine):
            told = {
                k: str(v) for k, v in row.get("saved", {}).items() if v.tells and v.bound != "<"
            }
            if told:
                found = ", ".join(f"{share} of {name}" for name, share in told.items())
                console.print(
                    f"To its loss at {units.flops(row['flops'])}, {row['name']} saves of the FLOPs:"
                    f" {found}."
                )
        for line in scales(mine):
            console.print(line)


def _grid(title: str, budgets: Sequence[str], losses: Mapping[str, Sequence[str]]) -> Any:
    """A table with the fewer, budgets or methods, side by side, so that it fits a terminal."""
    from rich import box
    from rich.table import Table

    shown = Table(title=title, box=box.SIMPLE_HEAD)
    shown.add_column("")
    turned = len(losses) < len(budgets)
    for name in losses if turned else budgets:
        shown.add_column(name, justify="right", overflow="fold")
    lines = zip(*losses.values(), strict=True) if turned else losses.values()
    for name, line in zip(budgets if turned else losses, lines, strict=True):
        shown.add_row(name, *line)
    return shown


def scales(rows: Sequence[Row]) -> list[str]:
    """How far growing lies below the best baseline at every budget, and the trend of savings.

    Errors are standard errors of the mean over paired seeds. Nothing is said of fewer than three
    budgets.
    """
    lines = []
    curves = list(baselines(rows, rows[0]["optimizer"]).values())
    shown = [row for row in summary(rows) if "below" in row and len(row["losses"]) > 1]
    for name in dict.fromkeys(row["name"] for row in shown):
        mine = [row for row in shown if row["name"] == name]
        if len(mine) < 3:
            continue
        for row in mine:
            mean, error = row["below"][0], row["below"][1] / len(row["losses"]) ** 0.5
            lines.append(
                f"{name}, {units.flops(row['flops'])}: below the best by "
                f"{mean:+.3f} ± {error:.3f} (standard error)"
            )
        found = trend(mine, curves)
        if found is None:
            continue
        for spent, share, error in found.budgets:
            lines.append(f"{name}, {units.flops(spent)}: saves {share:.0%} ± {error:.0%}")
        slope, ahead = found.slope, found.ahead
        lines.append(
            f"{name}: {slope[0]:+.0%} ± {slope[1]:.0%} for ten times the FLOPs; "
            f"{ahead[0]:.0%} ± {ahead[1]:.0%} at {units.flops(10 * found.budgets[-1][0])}"
        )
    return lines


def page(content: dict[str, Any]) -> str:
    """The verdict, the curves and the table, as one HTML file."""
    rows, parts = content["rows"], []
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        mine = [row for row in rows if row["optimizer"] == optimizer]
        figures = _figures(mine, list(baselines(mine, optimizer).values()))
        shown = rows_html([cells(row) for row in summary(mine)])
        parts.append(f'<h2>{optimizer}</h2><div class="plots">{figures}</div>{shown}')
    leads = "".join(
        lead_html((f"{name}: " if len(content["verdict"]) > 1 else "") + found["sentence"])
        for name, found in content["verdict"].items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Growing a character transformer</title><style>{STYLE}"
        ".plots { grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)); }"
        "</style></head>"
        f"<body>{leads}<h1>Growing a character transformer, at equal FLOPs</h1>"
        f"{''.join(parts)}{WORDS}<h2>Options</h2>{names_html(content['config'])}</body></html>\n"
    )


def _figures(rows: Sequence[Row], baseline: list[list[Row]]) -> str:
    """The loss while training and at every end, and how far growing lies below the baselines."""
    methods: dict[str, list[Row]] = {}
    for row in rows:
        methods.setdefault(row["name"], []).append(row)
    last = [part[-1] for part in methods.values()]
    grown = {name: part for name, part in methods.items() if part[0].get("grow_at")}
    training = [
        Curve(row["name"], [x for x, _ in row["curve"]], [y for _, y in row["curve"]])
        for row in last
    ]
    events = [Event(part[0]["grow_at"], "growth") for part in list(grown.values())[:1]]
    ends = _curves(methods, lambda row: sum(row["losses"]) / len(row["losses"]))
    drawn = [
        plot(training, title="Training loss, mean over seeds", x_label="FLOPs", events=events,
             log_x=True, size=(6.4, 4.4)),
        plot(ends, title="Validation loss at the end of each budget, rate decayed",
             x_label="FLOPs", log_x=True, size=(6.4, 4.4)),
    ]  # fmt: skip
    if grown and baseline and len(baseline[0]) > 2:  # two points are no curve
        spent = [row["flops"] for curve in baseline for row in curve]
        gaps = _curves(grown, lambda row: below(row, baseline)[0])
        level = Curve("the best that does not grow", [min(spent), max(spent)], [0.0, 0.0])
        title = "Growing, below the best that does not grow"
        drawn.append(
            plot([*gaps, level], title=title, x_label="FLOPs", log_x=True, size=(6.4, 4.4))
        )
    return "".join(f"<figure>{svg}</figure>" for svg in drawn)


def _curves(methods: dict[str, list[Row]], value: Callable[[Row], float]) -> list[Curve]:
    return [
        Curve(name, [row["flops"] for row in part], [value(row) for row in part], points=True)
        for name, part in methods.items()
    ]
