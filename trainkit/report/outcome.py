"""How one run ended, or how far it is: one sentence, from what it has written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainkit._core.counts import rounded_down
from trainkit._core.units import amount
from trainkit.report.run_data import RunData

# Of a run: under way, or how it ended. "killed" is a run that wrote no end and that nobody trains.
RUNNING, FINISHED, INTERRUPTED, NOT_FINITE, KILLED = (
    "running",
    "finished",
    "interrupted",
    "not finite",
    "killed",
)
GOES_ON = " The same command goes on from here."


def state_of(run: RunData) -> str:
    """Which of these a run is; `""` for rows without a summary."""
    if not run.summary:
        return ""
    state = run.summary.get("outcome", FINISHED)
    return KILLED if state == RUNNING and not run.running else state


def sentence(run: RunData) -> str:
    """How it ended and with which numbers.

    >>> rows = [{"step": n, "kind": "evaluation", "loss": 1 / n} for n in (1, 2)]
    >>> sentence(RunData("mine", rows, {}, {"outcome": "running", "budget": {"steps": 8}}, True))
    'Training: step 2, 25 % of steps=8. Validation loss 0.5000 at step 2, its best.'
    >>> sentence(RunData("mine", rows, {}, {"outcome": "finished", "stopped": "steps=2 reached"}))
    'Finished after 2 steps: steps=2 reached. Validation loss 0.5000 at step 2, its best.'
    """
    state, steps = state_of(run), f"{int(_used(run).get('step', 0)):,}"
    stopped = run.summary.get("stopped")
    said = {
        RUNNING: f"Training: step {steps}{_of_budget(run)}.",
        FINISHED: f"Finished after {steps} steps: {stopped}.",
        INTERRUPTED: f"{_capital(stopped)} after {steps} steps{_of_budget(run)}.",
        NOT_FINITE: f"Failed after {steps} steps: {stopped}.",
        KILLED: f"Ended without a word: its last row is of step {steps}{_of_budget(run)}.",
    }.get(state, "")
    more = GOES_ON if state in (INTERRUPTED, KILLED) else ""
    return f"{said} {_numbers(run)}{more}".strip()


def tone(run: RunData) -> str:
    """How the sentence is to look: `""`, "halted" or "failed"."""
    return {INTERRUPTED: "halted", KILLED: "halted", NOT_FINITE: "failed"}.get(state_of(run), "")


def last_numbers(run: RunData) -> tuple[str, dict[str, float]]:
    """The last evaluation, loss first, or else the last training metrics; and which it is."""
    for kind, words in (("evaluation", "validation"), ("train", "training")):
        rows = run.of(kind)
        if rows:
            found = {name: rows[-1][name] for name in run.metrics(kind) if name in rows[-1]}
            if kind == "train":
                found = {name: value for name, value in found.items() if name == "loss"}
            return words, dict(sorted(found.items(), key=lambda item: item[0] != "loss"))
    return "", {}


def spent(run: RunData) -> Mapping[str, Any]:
    """Steps, epochs, examples, FLOPs and seconds: of the summary, or so far of the last row."""
    if run.summary.get("outcome", RUNNING) != RUNNING:
        return run.summary
    last = run.rows[-1] if run.rows else {}
    return {**last, "steps": last.get("step", 0), "epochs": last.get("epoch")}


def _numbers(run: RunData) -> str:
    words, found = last_numbers(run)
    if not found:
        return ""
    rows = run.of("evaluation") or run.of("train")
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.items())
    text = f"{words.capitalize()} {shown} at step {rows[-1]['step']:,}"
    if words == "validation" and len(rows) > 1:
        text += _best(run, rows)
    return f"{text}."


def _best(run: RunData, rows: list[dict[str, Any]]) -> str:
    """Beside the last evaluation: where the best one was, by the run's own measure or its loss."""
    best = run.summary.get("best") or {}
    name = next((n for n, v in best.get("metrics", {}).items() if v == best["value"]), None)
    step, value = best.get("step"), best.get("value")
    if name is None or state_of(run) == RUNNING:
        known = [row for row in rows if math.isfinite(row.get("loss", math.nan))]
        if not known:
            return ""
        lowest = min(known, key=lambda row: row["loss"])
        name, step, value = "loss", lowest["step"], lowest["loss"]
    if step == rows[-1]["step"]:
        return ", its best"
    return f" (best {name.replace('_', ' ')} {value:.4f} at step {step:,})"


def _used(run: RunData) -> Mapping[str, float]:
    return run.rows[-1] if run.rows else {}


def _of_budget(run: RunData) -> str:
    """ ", 14 % of steps=1000": a run that has not reached its budget never shows all of it."""
    used, budget = _used(run), run.summary.get("budget") or {}
    columns = {"steps": "step", "epochs": "epoch"}
    shares = {
        name: used.get(columns.get(name, name), 0.0) / limit
        for name, limit in budget.items()
        if limit
    }
    if not shares:
        return ""
    name = max(shares, key=lambda name: shares[name])
    percent = rounded_down(100 * shares[name])
    share = f"{min(percent, 99 if shares[name] < 1 else 100)} %" if percent else "less than 1 %"
    return f", {share} of {name}={amount(name, budget[name])}"


def _capital(text: str | None) -> str:
    return (text or "")[:1].upper() + (text or "")[1:]
