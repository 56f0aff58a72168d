"""The parts of a report that only a growing run has: growths, certificates, probes, FLOPs, ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainkit._core.units import si
from trainkit.report.tables import columns_html, escaped, rows_html
from trainkit.report.verdict import Ending


def growth_parts(
    history: Sequence[Mapping[str, Any]],
    ledger: Mapping[str, float],
    beside: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    metric: str = "loss",
) -> list[str]:
    """HTML for `write_report(parts=…)`: what grew, what it cost and how it ended.

    Nothing is said here of what growing saved: that takes the decayed ends of several seeds at
    equal FLOPs, see `trainkit.report.verdict`.

    Args:
      history: of the growing run.
      ledger: of the growing run.
      beside: the histories of runs to set beside it, by name.
      metric: an evaluated metric.
    """
    parts = []
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
    ends = {"this run": history, **(beside or {})}
    parts += [
        _heading("How each run ended"),
        rows_html([{"run": name, **_end(run, metric)} for name, run in ends.items()]),
    ]
    return parts


def _end(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, str]:
    ending = Ending.of(history, metric)
    return {
        "FLOPs": si(ending.flops),
        f"validation {metric}": f"{ending.loss:.4f}" if math.isfinite(ending.loss) else "none",
        "growths": str(ending.growths),
        "finished": "yes" if ending.finished else "no",
        "of the learning rate, left": f"{ending.rate_left:.0%}",
    }


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
