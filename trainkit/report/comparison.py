"""Several runs beside each other: in what they differ, and with which numbers they ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainkit._core.units import duration, si
from trainkit.report.outcome import FINISHED, last_numbers, spent, state_of
from trainkit.report.run_data import RunData


def ranked(runs: Sequence[RunData], metric: str = "loss", mode: str = "min") -> list[RunData]:
    """The best by the last value of a metric first; those without one last."""

    def key(run: RunData) -> tuple[bool, float]:
        value = last_numbers(run)[1].get(metric, math.nan)
        return math.isnan(value), value if mode == "min" else -value

    return sorted(runs, key=key)


def said(runs: Sequence[RunData], metric: str = "loss", mode: str = "min") -> str:
    """Which run ended best, in a sentence, with what keeps it from being fair.

    >>> run = lambda name, loss: RunData(name, [{"step": 1, "kind": "train", "loss": loss}])
    >>> runs = [run("a", 2.0), run("b", 1.0)]
    >>> said(runs)
    'b has the lowest training loss, 1.0000, before a with 2.0000.'
    """
    order = [run for run in ranked(runs, metric, mode) if _value(run, metric) is not None]
    if not order:
        return f"No run has a {metric} to compare."
    first = order[0]
    kind = last_numbers(first)[0]
    alike = [run for run in order if last_numbers(run)[0] == kind]
    text = (
        f"{first.name} has the {'lowest' if mode == 'min' else 'highest'} {kind} "
        f"{metric.replace('_', ' ')}, {_value(first, metric):.4f}"
    )
    if len(alike) > 1:
        text += f", before {alike[1].name} with {_value(alike[1], metric):.4f}"
    states = [(run.name, state_of(run)) for run in runs]
    unfit = [f"{name} ({state})" for name, state in states if state not in ("", FINISHED)]
    return f"{text}." + (f" Not finished: {', '.join(unfit)}." if unfit else "")


def _value(run: RunData, metric: str) -> float | None:
    value = last_numbers(run)[1].get(metric)
    return None if value is None or math.isnan(value) else value


def table_rows(
    runs: Sequence[RunData], metric: str = "loss", mode: str = "min"
) -> list[dict[str, str]]:
    """A row a run, the best first: its own options, its last numbers and what it took."""
    differs, _ = options(runs)
    found = []
    for run in ranked(runs, metric, mode):
        mine = flat(run.config)
        row = {"run": run.name}
        row |= {name: _shown(mine.get(name, "")) for name in differs}
        kind, numbers = last_numbers(run)
        row |= {f"{kind} {name.replace('_', ' ')}": f"{v:.4f}" for name, v in numbers.items()}
        used = spent(run)
        row["steps"] = f"{used.get('steps', 0):,}"
        if used.get("flops"):
            row["FLOPs"] = si(used["flops"])
        row["time"] = duration(used.get("seconds", 0.0))
        row["state"] = state_of(run)
        found.append(row)
    empty = {n for row in found for n in row if not any(other.get(n) for other in found)}
    return [{n: v for n, v in row.items() if n not in empty} for row in found]


def options(runs: Sequence[RunData]) -> tuple[list[str], dict[str, Any]]:
    """The names of the options in which some runs differ, and those that all have alike.

    >>> configs = ({"rate": 1, "seed": 0}, {"rate": 2, "seed": 0})
    >>> options([RunData("a", [], config) for config in configs])
    (['rate'], {'seed': 0})
    """
    each = [flat(run.config) for run in runs]
    names = dict.fromkeys(name for config in each for name in config)
    missing = object()
    alike = {
        name: each[0][name]
        for name in names
        if all(config.get(name, missing) == each[0].get(name, missing) for config in each)
    }
    return [name for name in names if name not in alike], alike


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Options without nesting.

    >>> flat({"model": {"width": 8}, "seed": 0})
    {'model.width': 8, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
