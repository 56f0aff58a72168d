"""Which plots a report has: loss and accuracy against what was spent, then what explains them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trainkit.report.plots import Curve, Event, plot, spans_decades
from trainkit.report.run_data import RunData

SPENT = {"step": "steps", "examples": "examples", "flops": "FLOPs", "seconds": "seconds"}
# Columns that count or time; everything else is a metric.
COUNTS = {"step", "kind", "epoch", "examples", "flops", "seconds", "compile_seconds", "stage"}
EXPLAIN = {
    "learning_rate": "Learning rate",
    "pace": "Learning rate, as a share of its value",
    "grad_norm": "Gradient norm",
    "update_norm": "Update norm",
    "param_norm": "Parameter norm",
    "examples_per_second": "Examples per second",
}
# A schedule is as it is drawn, without noise to be averaged out, and known by its shape.
EXACT = {"learning_rate", "pace"}
LINEAR = {"accuracy", "examples_per_second", "learning_rate", "pace"}


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with plots under it."""

    title: str
    plots: Sequence[str]


def sections(runs: Sequence[RunData]) -> list[Section]:
    """The plots of some runs."""
    found = []
    names = _metrics(runs)
    measured = [name for name in names if name in _metrics(runs, "evaluation")]
    # Loss first and accuracy second, whatever else was measured.
    main = sorted(measured or ["loss"], key=lambda name: (name != "loss", name != "accuracy"))
    for name in [name for name in dict.fromkeys(["loss", *main]) if name in names]:
        # The heading says what it is; each plot says against what.
        plots = [
            _against(runs, name, x, label, f"{_words(name)} against {label}")
            for x, label in SPENT.items()
            if _has(runs, x)
        ]
        found.append(Section(_words(name), [svg for svg in plots if svg]))
    for title, group in (
        ("Learning rate and norms", [n for n in EXPLAIN if n in names]),
        ("Other metrics", [n for n in names if n not in EXPLAIN and n not in main and n != "loss"]),
    ):
        plots = [
            _against(runs, name, "step", "steps", EXPLAIN.get(name, _words(name))) for name in group
        ]
        if any(plots):
            found.append(Section(title, [svg for svg in plots if svg]))
    return found


def _against(runs: Sequence[RunData], name: str, x: str, x_label: str, title: str) -> str | None:
    curves, noisy = [], name.split("/")[0] not in EXACT
    for run in runs:
        for kind, words in (("train", "training"), ("evaluation", "validation")):
            xs, ys = run.series(kind, x, name)
            # Between runs, what was measured on the same examples is compared.
            if len(runs) > 1 and kind == "train" and run.series("evaluation", x, name)[0]:
                continue
            if xs:
                label = words if len(runs) == 1 else f"{run.name}, {words}"
                train = kind == "train"
                curves.append(Curve(label, xs, ys, points=not train, smooth=train and noisy))
    if not curves:
        return None
    # Of the run that the report is about: those of all would cover each other.
    events = [Event(row[x], str(row.get("event", ""))) for row in runs[0].of("event") if x in row]
    values = [value for curve in curves for value in curve.y]
    log_y = name.split("/")[0] not in LINEAR and spans_decades(values)
    return plot(curves, title=title, x_label=x_label, log_y=log_y, events=events)


def _metrics(runs: Sequence[RunData], kind: str | None = None) -> list[str]:
    names: dict[str, None] = {}
    for run in runs:
        for row in run.rows:
            if kind in (None, row["kind"]) and row["kind"] != "event":
                names |= dict.fromkeys(
                    name
                    for name, value in row.items()
                    if name not in COUNTS and isinstance(value, int | float)
                )
    # A count of skipped steps that stayed 0 is good news and no picture.
    return [
        name
        for name in names
        if name != "skipped_steps" or any(row.get(name) for run in runs for row in run.rows)
    ]


def _has(runs: Sequence[RunData], x: str) -> bool:
    return any(row.get(x) for run in runs for row in run.rows)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()
