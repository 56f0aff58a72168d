"""The numbers of a run as cards."""

from __future__ import annotations

from collections.abc import Mapping

from trainkit._core.units import duration, si
from trainkit.report.outcome import last_numbers, spent
from trainkit.report.run_data import RunData
from trainkit.report.tables import escaped


def cards(headline: Mapping[str, str], run: RunData | None) -> str:
    """What a run was for, and its numbers; without a run the first alone."""

    def card(name: str, value: str, kind: str) -> str:
        return f'<div class="{kind}"><b>{escaped(value)}</b><span>{escaped(name)}</span></div>'

    shown = [card(name, value, "card main") for name, value in headline.items()]
    shown += [card(name, value, "card") for name, value in (_numbers(run) if run else {}).items()]
    return f'<div class="cards">{"".join(shown)}</div>'


def _numbers(run: RunData) -> dict[str, str]:
    if not run.rows:
        return {}
    kind, found = last_numbers(run)
    shown = {f"{kind} {name.replace('_', ' ')}": f"{value:.4f}" for name, value in found.items()}
    used = spent(run)
    shown["steps"] = f"{used.get('steps', 0):,}"
    if used.get("epochs"):
        shown["epochs"] = f"{used['epochs']:.3g}"
    if used.get("examples"):
        shown["examples"] = f"{used['examples']:,}"
    if used.get("flops"):
        shown["FLOPs"] = si(used["flops"])
    if used.get("seconds"):
        shown["wall time"] = duration(used["seconds"])
    if speed := _speed(run):
        shown["examples per second"] = f"{speed:,.0f}"
    if waited := max((row.get("compile_seconds", 0.0) for row in run.of("train")), default=0.0):
        shown["of it compiling"] = duration(waited)
    return shown


def _speed(run: RunData) -> float:
    """Examples a second of all training rows; 0 where none was measured.

    >>> rows = [{"step": n, "kind": "train", "examples": 10 * n, "examples_per_second": 10.0 / n}
    ...         for n in (1, 2)]
    >>> round(_speed(RunData("mine", rows)), 3)  # 10 examples in 1 s, 10 in 2 s
    6.667
    """
    examples = seconds = last = 0.0
    for row in run.of("train"):
        if row.get("examples_per_second"):
            examples += row["examples"] - last
            seconds += (row["examples"] - last) / row["examples_per_second"]
        last = row.get("examples", last)
    return examples / seconds if seconds else 0.0
