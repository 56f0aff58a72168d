"""The parts of a report that only a growing run has: growths, certificates, probes, comparisons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from trainkit.report.run_data import RunData
from trainkit.report.tables import columns_html, escaped, rows_html, si


@dataclasses.dataclass(frozen=True)
class Reached:
    """What a run had spent when its validation metric first was as good as a value.

    Attributes:
      run: the run's name.
      flops, seconds, examples: spent by then; NaN where it never got there.
    """

    run: str
    flops: float
    seconds: float
    examples: float


def reached(
    run: RunData, metric: str, value: float, mode: Literal["min", "max"] = "min"
) -> Reached:
    """When a run first evaluated to `value` or better.

    >>> rows = [{"kind": "evaluation", "step": 1, "loss": .5, "flops": 9., "seconds": 1.,
    ...          "examples": 8}]
    >>> reached(RunData("mine", rows), "loss", 0.6).flops
    9.0
    """
    for row in run.of("evaluation"):
        found = row.get(metric, math.nan)
        if found <= value if mode == "min" else found >= value:
            return Reached(run.name, row["flops"], row["seconds"], row["examples"])
    return Reached(run.name, math.nan, math.nan, math.nan)


def best(run: RunData, metric: str, mode: Literal["min", "max"] = "min") -> float:
    """The best value of an evaluated metric; NaN where there is none."""
    values = [v for v in run.series("evaluation", "step", metric)[1] if math.isfinite(v)]
    return (min if mode == "min" else max)(values, default=math.nan)


def comparison(
    runs: Sequence[RunData],
    metric: str = "loss",
    mode: Literal["min", "max"] = "min",
    sunk: float = 0.0,
) -> list[dict[str, Any]]:
    """What each run spent until it was as good as the others' best: the first run against each.

    Args:
      runs: the progressive run first, its baselines after it.
      metric: an evaluated metric.
      mode: what is better.
      sunk: FLOPs of the first run that may be counted as spent already (its first stage).

    Returns:
      For each baseline {"run", "value", "flops", "seconds", "examples", "ours_flops",
      "ours_seconds", "ours_examples", "saved", "saved_sunk"}: the value is the worse of the two
      runs' best ones, so that both got there, and `saved` is 1 − ours / theirs in FLOPs.
    """
    ours, rows = runs[0], []
    for run in runs[1:]:
        pair = best(ours, metric, mode), best(run, metric, mode)
        value = max(pair) if mode == "min" else min(pair)
        mine, theirs = (reached(r, metric, value, mode) for r in (ours, run))
        rows.append(
            {
                "run": run.name,
                "value": value,
                "flops": theirs.flops,
                "seconds": theirs.seconds,
                "examples": theirs.examples,
                "ours_flops": mine.flops,
                "ours_seconds": mine.seconds,
                "ours_examples": mine.examples,
                "saved": 1 - mine.flops / theirs.flops,
                "saved_sunk": 1 - max(mine.flops - sunk, 0.0) / theirs.flops,
            }
        )
    return rows


def growth_parts(
    history: Sequence[Mapping[str, Any]],
    ledger: Mapping[str, float],
    runs: Sequence[RunData],
    metric: str = "loss",
    mode: Literal["min", "max"] = "min",
) -> list[str]:
    """HTML for `write_report(parts=…)`: what happened, what it cost and what it was worth."""
    parts = [_heading("What happened"), rows_html(_events(history))]
    growths = [event for event in history if event["event"] == "growth"]
    if growths:
        parts += [_heading("Certificates"), columns_html(_certificates(growths))]
        for event in growths:
            if event.get("text"):
                title = f"stage {event['stage'] + 1}: {event['before']} → {event['after']}"
                parts.append(
                    f"<details><summary>Map of {escaped(title)}</summary>"
                    f"<pre>{escaped(event['text'])}</pre></details>"
                )
    for event in history:
        if event.get("probe"):
            parts += [
                _heading(f"Probe at step {event['step']:,}"),
                rows_html(_probe(event["probe"])),
            ]
    parts += [_heading("FLOPs by what they were spent on"), rows_html(_ledger(ledger))]
    if len(runs) > 1:
        sunk = growths[0]["flops"] if growths else 0.0
        rows = [
            {
                "against": row["run"],
                f"to the same {metric}": f"{row['value']:.4g}",
                "FLOPs, this run": si(row["ours_flops"]),
                "FLOPs, theirs": si(row["flops"]),
                "saved": f"{row['saved']:.0%}",
                "saved, first stage sunk": f"{row['saved_sunk']:.0%}",
                "seconds, this run": f"{row['ours_seconds']:.1f}",
                "seconds, theirs": f"{row['seconds']:.1f}",
                "examples, this run": f"{row['ours_examples']:,.0f}",
                "examples, theirs": f"{row['examples']:,.0f}",
            }
            for row in comparison(runs, metric, mode, sunk)
        ]
        parts += [_heading(f"To the same {metric}"), rows_html(rows)]
    return parts


def _events(history: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for event in history:
        what = {
            "growth": "grew: {before} → {after}, by {how}",
            "stay": "probed, and did not grow",
            "lower": "probed, and only lowered the learning rate",
            "decay": "learning rate begins to fall",
            "end": "ended",
        }.get(event["event"], event["event"])
        rows.append(
            {
                "step": f"{event['step']:,}",
                "examples": f"{event['examples']:,}",
                "FLOPs": si(event["flops"]),
                "seconds": f"{event['seconds']:.1f}",
                "what": what.format(**{k: v for k, v in event.items() if isinstance(v, str)}),
                "why": str(event.get("reason", "")),
            }
        )
    return rows


def _certificates(growths: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "growth": f"{event['before']} → {event['after']}",
            "keeps the function": "yes, proved" if event.get("exact") else "no",
            "compiled ahead": "yes" if event.get("compiled_ahead") else "no",
            **certificate_cells(event.get("certificate") or {}),
        }
        for event in growths
    ]


def certificate_cells(certificate: Mapping[str, Any]) -> dict[str, str]:
    """A `trainkit.growth.Certificate` as JSON holds it, in words for one row of a table.

    >>> certificate_cells({"forward_error": {"float32": 1e-7}, "parameters": [10, 20]})
    {'outputs moved by': '1.0e-07 (float32)', 'parameters': '10 → 20'}
    """
    cells: dict[str, str] = {}
    has: Callable[[str], Any] = certificate.get
    if has("forward_error"):
        errors = has("forward_error").items()
        cells["outputs moved by"] = ", ".join(f"{value:.1e} ({name})" for name, value in errors)
    if "loss_before" in certificate:
        cells["loss"] = f"{has('loss_before'):.4f} → {has('loss_after'):.4f}"
    if "gradient_residual" in certificate:
        cells["gradient residual"] = f"{has('gradient_residual'):.1e}"
    if has("update_norm"):
        cells["first update, predicted / actual"] = "{:.3g} / {:.3g}".format(*has("update_norm"))
    for name in ("parameters", "flops", "bytes"):
        if has(name):
            before, after = has(name)
            show = "{:,}".format if name == "parameters" else si
            cells[{"flops": "FLOPs forward"}.get(name, name)] = f"{show(before)} → {show(after)}"
    if "replica_distance" in certificate:
        apart = has("replica_distance")
        words = "smallest {:.1e}, median {:.1e}"
        cells["copies apart"] = words.format(*apart) if apart else "no copies"
    for name, words in (
        ("new_layers", "new leaves"),
        ("zeroed", "at 0"),
        ("calibrated", "moments guessed"),
        ("dead", "dead units"),
    ):
        if name in certificate:
            cells[words] = _few(has(name))
    if "fresh" in certificate:
        cells["fresh entries"] = f"{sum(has('fresh').values()):,}"
    if has("warnings"):
        cells["warnings"] = "; ".join(has("warnings"))
    return cells


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f", … ({len(names)})" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


def _probe(probe: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "candidate": row["name"] + (" (taken)" if number == probe["best"] else ""),
            "steps": str(row["steps"]),
            "FLOPs": si(row["flops"]),
            "loss": f"{row['loss']:.4f}",
            "price": f"{row['price']:.3g}",
            "gain over not growing": f"{row['gain']:+.4f} ± {row['error']:.4f}",
        }
        for number, row in enumerate(probe["candidates"])
    ]


def _ledger(ledger: Mapping[str, float]) -> list[dict[str, str]]:
    names = ("train", "evaluate", "probe", "growth")
    row = {name: si(ledger[name]) for name in names}
    total = sum(ledger[name] for name in names)
    return [row | {"total": si(total), "6·N·D of training": si(ledger["analytic"])}]


def _heading(text: str) -> str:
    return f"<h2>{escaped(text)}</h2>"
