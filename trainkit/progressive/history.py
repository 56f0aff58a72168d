"""The events of a progressive run, its cost, and its pending certificates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from trainkit.loop.hooks import Now
from trainkit.progressive.background import Background
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.stages.prepared import PreparedStage


class History:
    """The events and the ledger of a run.

    Attributes:
      events: one mapping of JSON values for each event.
      ledger: FLOPs by category.
      evaluation: the metrics of the last evaluation.
    """

    def __init__(self, background: Background):
        self.background = background
        self.events: list[dict[str, Any]] = []
        self.ledger = Ledger()
        self.evaluation: dict[str, float] = {}
        self._counted: dict[str, Any] = {"examples": 0, "evaluated_at": -1, "flops": 0.0}
        # Pending certificates: event, name of the background work, function that computes it.
        self._uncertified: list[tuple[dict[str, Any], Hashable, Callable[[], Any]]] = []

    # -- the ledger ----------------------------------------------------------------------------

    def count_steps(self, now: Now, current: PreparedStage) -> None:
        """Adds the steps since the last call, all of one stage, to the ledger."""
        examples = now.examples - self._counted["examples"]
        self.add_flops(
            train=now.flops - self._counted["flops"],
            analytic=examples * current.analytic_per_example,
        )
        self._counted["examples"], self._counted["flops"] = now.examples, now.flops

    def add_flops(self, **flops: float) -> None:
        """Adds FLOPs to categories of the ledger."""
        self.ledger = self.ledger.plus(**flops)

    def exclude_flops(self, flops: float) -> None:
        """Excludes FLOPs, which the loop will count, from those of training steps."""
        self._counted["flops"] += flops

    def evaluated(self, step: int, metrics: Mapping[str, float], current: PreparedStage) -> None:
        """Records an evaluation, and adds its FLOPs, which the loop counts too, to the ledger."""
        self._counted["evaluated_at"] = step
        self.evaluation = dict(metrics)
        self.add_flops(evaluate=current.evaluation.flops)
        self.exclude_flops(current.evaluation.flops)

    def has_evaluation_of(self, step: int) -> bool:
        """Whether the last evaluation was at this step."""
        return self._counted["evaluated_at"] == step

    # -- the history ---------------------------------------------------------------------------

    def counts(self, now: Now) -> dict[str, Any]:
        """The counts of the run, by the names of `triggers.Observation`."""
        return {
            "step": now.steps,
            "epoch": now.epochs,
            "examples": now.examples,
            "seconds": now.seconds,
            "flops": self.ledger.total,
        }

    def used(self, now: Now) -> dict[str, float]:
        """The same counts by the names of `Budget`."""
        counts = self.counts(now)
        return {"steps": counts.pop("step"), "epochs": counts.pop("epoch"), **counts}

    def event(self, now: Now, event: str, stage: int, **more: Any) -> dict[str, Any]:
        """Appends an event, and returns it."""
        entry = {"event": event, "stage": stage, **self.counts(now), **more}
        self.events.append(entry)
        return entry

    def certify_later(
        self, event: dict[str, Any], certify: Callable[[], Any]
    ) -> Callable[[], None]:
        """Registers an event's pending certificate; returns a function that starts computing it."""
        name = ("certificate", event["stage"])  # unique: each stage is grown from only once
        self._uncertified.append((event, name, certify))
        return lambda: self.background.start(name, certify)

    def collect_certificates(self) -> None:
        """Adds finished certificates to their events, without waiting for others."""
        done = [one for one in self._uncertified if self.background.ready(one[1])]
        for event, name, _ in done:
            event["certificate"] = self.background.take(name)
        self._uncertified = [one for one in self._uncertified if one not in done]

    def settle(self) -> None:
        """Waits for all pending certificates, and adds them to their events."""
        for event, name, certify in self._uncertified:
            self.background.start(name, certify)
            event["certificate"] = self.background.take(name)
        self._uncertified = []

    def save(self) -> dict[str, Any]:
        """A copy as JSON values, which can be written in the background while the run continues."""
        self.collect_certificates()
        events = copy.deepcopy(self.events)
        missing = {id(event) for event, _, _ in self._uncertified}
        for event, own in zip(events, self.events, strict=True):
            if id(own) in missing:
                event["certificate"] = {"pending": True}
        return {
            "history": events,
            "ledger": self.ledger.to_json(),
            "counted": dict(self._counted),
            "evaluation": dict(self.evaluation),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Restores the result of `save`."""
        self.events = [dict(event) for event in saved["history"]]
        self.ledger = Ledger.from_json(saved["ledger"])
        self._counted, self.evaluation = dict(saved["counted"]), dict(saved["evaluation"])
        self._uncertified = []


def row_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as a row of metrics: its numbers and strings, without nested values."""
    row = {k: v for k, v in event.items() if isinstance(v, str | bool | int | float)}
    # The loop adds its own counts; the table of a growth is too long for a row.
    left_out = ("step", "epoch", "examples", "seconds", "flops", "text")
    label = {
        "growth": f"→ {event.get('after')}",
        "lower": "lower rate",
        "stay": "no growth",
    }.get(event["event"], event["event"])
    return {k: v for k, v in row.items() if k not in left_out} | {"event": label}
