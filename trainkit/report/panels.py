"""Which plots a report has: loss and accuracy against what was spent, then what explains them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trainkit.report.events import Numbered, numbered
from trainkit.report.plots import COLOURS, Curve, Event, plot, spans_decades
from trainkit.report.run_data import RunData

SPENT = {"step": "steps", "examples": "examples", "flops": "FLOPs", "seconds": "time"}
# Seconds in each unit, and from how many seconds on it is used.
TIMES = (("hours", 3600.0, 7200.0), ("minutes", 60.0, 180.0), ("seconds", 1.0, 0.0))
EXPLAIN = {
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "update_norm": "Update norm",
    "param_norm": "Parameter norm",
    "examples_per_second": "Examples per second",
}
# The learning rate has it already.
HIDDEN = {"pace"}
# A schedule is as it is drawn, without noise to be averaged out, and known by its shape.
EXACT = {"learning_rate"}
LINEAR = {"accuracy", "examples_per_second", "learning_rate"}
# Two axes whose curves lie nowhere further apart than this share of their width are one.
ALIKE = 0.05
# Events closer together than this share of the axis have one label.
CLOSE = 0.04
TRAINING, VALIDATION = COLOURS[:2]


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with plots under it.

    Attributes:
      title: of the section.
      plots: (the column that it is drawn against, SVG).
      metrics: the names of what is drawn.
    """

    title: str
    plots: Sequence[tuple[str, str]]
    metrics: Sequence[str]

    def has(self, run: RunData, *kinds: str) -> bool:
        """Whether a run has one of the metrics in rows of these kinds."""
        return any(name in row for kind in kinds for row in run.of(kind) for name in self.metrics)


def axes_of(runs: Sequence[RunData]) -> list[str]:
    """The columns that it matters to draw against: no two of them give the same picture.

    >>> rows = [{"step": n, "kind": "train", "examples": 8 * n, "flops": n * n} for n in (1, 2, 3)]
    >>> axes_of([RunData("mine", rows)])
    ['step', 'flops']
    """
    rows = [row for run in runs for row in run.rows if row["kind"] != "event"]
    found: list[str] = []
    for x in SPENT:
        values = [row.get(x) for row in rows]
        if not any(values):
            continue
        if not any(_alike([row.get(other) for row in rows], values) for other in found):
            found.append(x)
    return found


def _alike(xs: Sequence[float | None], ys: Sequence[float | None]) -> bool:
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if x is not None and y is not None]
    widest = max(x for x, _ in pairs) or 1, max(y for _, y in pairs) or 1
    return all(abs(x / widest[0] - y / widest[1]) < ALIKE for x, y in pairs)


def sections(runs: Sequence[RunData]) -> list[Section]:
    """The plots of some runs."""
    names, measured = _names(runs, "train"), _names(runs, "evaluation")
    # Loss first and accuracy second, whatever else was measured.
    main = sorted(
        {"loss": None} | dict.fromkeys(measured), key=lambda n: (n != "loss", n != "accuracy")
    )
    constant = constants(runs)
    explain = [name for name in names if name.split("/")[0] in EXPLAIN]
    explain = sorted(explain, key=lambda name: list(EXPLAIN).index(name.split("/")[0]))
    rest = [n for n in names if n not in (*explain, *main)]
    found = []
    for title, group, axes in (
        ("Curves", main, axes_of(runs)),
        ("Learning rate, norms and speed", explain, ["step"]),
        ("Other metrics", rest, ["step"]),
    ):
        drawn = [
            (x, svg)
            for name in group
            if name not in constant
            for x in axes
            if (svg := _against(runs, name, x)) is not None
        ]
        if drawn:
            found.append(Section(title, drawn, [name for name in group if name not in constant]))
    return found


def constants(runs: Sequence[RunData]) -> dict[str, list[float | None]]:
    """Training metrics that never change in any run, by name, with their value in each run.

    A picture of them would show nothing. A count of skipped steps that stayed 0 is left out.
    """
    found: dict[str, list[float | None]] = {}
    for name in _names(runs, "train"):
        values = [{row[name] for row in run.of("train") if name in row} for run in runs]
        several = any(len(run.of("train")) > 1 for run in runs)
        if several and name != "loss" and all(len(each) <= 1 for each in values):
            found[name] = [next(iter(each), None) for each in values]
    return {n: v for n, v in found.items() if n != "skipped_steps" or any(v)}


def words(name: str) -> str:
    """The name of a metric, for a heading.

    >>> words("grad_norm"), words("learning_rate/body")
    ('Gradient norm', 'Learning rate, body')
    """
    first, _, rest = name.partition("/")
    said = EXPLAIN.get(first, first.replace("_", " ").capitalize())
    return f"{said}, {rest}" if rest else said


def _against(runs: Sequence[RunData], name: str, x: str) -> str | None:
    unit, seconds = _unit(runs) if x == "seconds" else (SPENT[x], 1.0)
    curves, noisy = [], name.split("/")[0] not in EXACT
    for number, run in enumerate(runs):
        for kind, colour in (("train", TRAINING), ("evaluation", VALIDATION)):
            xs, ys = run.series(kind, x, name)
            # Between runs, what was measured on the same examples is compared.
            if len(runs) > 1 and kind == "train" and run.series("evaluation", x, name)[0]:
                continue
            if xs:
                train = kind == "train"
                curves.append(
                    Curve(
                        run.name,
                        [value / seconds for value in xs],
                        ys,
                        points=not train,
                        smooth=train and noisy,
                        colour=colour if len(runs) == 1 else colour_of(number),
                    )
                )
    if not curves:
        return None
    values = [value for curve in curves for value in curve.y]
    log_y = name.split("/")[0] not in LINEAR and spans_decades(values)
    span = max(max(curve.x) for curve in curves)
    return plot(
        curves,
        title=words(name),
        x_label=unit,
        log_y=log_y,
        events=_events(runs, x, seconds, span),
        legend=False,
    )


def colour_of(run: int) -> str:
    """That of a run's curves and events."""
    return COLOURS[run % len(COLOURS)]


def _events(runs: Sequence[RunData], x: str, seconds: float, span: float) -> list[Event]:
    """Lines for all events in the colours of their runs; those of one place have one label."""
    groups: list[list[tuple[Numbered, float]]] = []
    for event in numbered(runs):
        if x not in event.row:
            continue
        at = event.row[x] / seconds
        last = groups[-1][-1] if groups else None
        if last and last[0].run == event.run and at - last[1] < CLOSE * span:
            groups[-1].append((event, at))
        else:
            groups.append([(event, at)])
    found = []
    for group in groups:
        first, last_one = group[0][0], group[-1][0]
        label = f"{first.number}" if len(group) == 1 else f"{first.number}–{last_one.number}"
        colour = None if len(runs) == 1 else colour_of(first.run)
        found += [Event(at, label if event is first else "", colour) for event, at in group]
    return found


def _unit(runs: Sequence[RunData]) -> tuple[str, float]:
    longest = max((row.get("seconds", 0.0) for run in runs for row in run.rows), default=0.0)
    return next((name, size) for name, size, least in TIMES if longest >= least)


def _names(runs: Sequence[RunData], kind: str) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.metrics(kind))
    # A count of skipped steps that stayed 0 is good news and no picture.
    return [
        name
        for name in names
        if name not in HIDDEN
        and (name != "skipped_steps" or any(row.get(name) for run in runs for row in run.rows))
    ]
