"""What happened in a growing run, what it cost, and the certificates still to come."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from trainkit.loop.hooks import Now
from trainkit.progressive.background import Background
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.stages.prepared import PreparedStage


class History:
    """Events and ledger.

    Attributes:
      events: what happened, one mapping an event, as JSON holds it.
      ledger: what it cost.
      evaluation: the metrics of the last evaluation.
    """

    def __init__(self, background: Background):
        self.background = background
        self.events: list[dict[str, Any]] = []
        self.ledger = Ledger()
        self.evaluation: dict[str, float] = {}
        self._counted: dict[str, Any] = {"examples": 0, "evaluated_at": -1, "flops": 0.0}
        # Their events, what they are called in the background, and what makes them.
        self._uncertified: list[tuple[dict[str, Any], Hashable, Callable[[], Any]]] = []

    # -- the ledger ----------------------------------------------------------------------------

    def account(self, now: Now, here: PreparedStage) -> None:
        """Counts the steps since the last time, all of them of one stage."""
        examples = now.examples - self._counted["examples"]
        self.spend(
            train=now.flops - self._counted["flops"],
            analytic=examples * here.analytic_per_example,
        )
        self._counted["examples"], self._counted["flops"] = now.examples, now.flops

    def spend(self, **flops: float) -> None:
        """Counts FLOPs of some categories."""
        self.ledger = self.ledger.plus(**flops)

    def leave_out(self, flops: float) -> None:
        """Of what the loop will have counted next time, this much is not of training steps."""
        self._counted["flops"] += flops

    def evaluated(self, step: int, metrics: Mapping[str, float], here: PreparedStage) -> None:
        """Takes in an evaluation and what it cost, which the loop has counted too."""
        self._counted["evaluated_at"] = step
        self.evaluation = dict(metrics)
        self.spend(evaluate=here.evaluation.flops)
        self.leave_out(here.evaluation.flops)

    def has_evaluation_of(self, step: int) -> bool:
        """Whether the last evaluation is of this step."""
        return self._counted["evaluated_at"] == step

    # -- the history ---------------------------------------------------------------------------

    def counts(self, now: Now) -> dict[str, Any]:
        """What the run has counted, by the names that triggers use."""
        return {
            "step": now.steps,
            "epoch": now.epochs,
            "examples": now.examples,
            "seconds": now.seconds,
            "flops": self.ledger.total,
        }

    def used(self, now: Now) -> dict[str, float]:
        """The same by the names that limits use."""
        counts = self.counts(now)
        return {"steps": counts.pop("step"), "epochs": counts.pop("epoch"), **counts}

    def event(self, now: Now, event: str, stage: int, **more: Any) -> dict[str, Any]:
        """Writes an event down, and returns it."""
        entry = {"event": event, "stage": stage, **self.counts(now), **more}
        self.events.append(entry)
        return entry

    def certify_later(
        self, event: dict[str, Any], certify: Callable[[], Any]
    ) -> Callable[[], None]:
        """Promises an event its certificate, and returns what begins to make it."""
        name = ("certificate", event["stage"])  # of which each is left but once
        self._uncertified.append((event, name, certify))
        return lambda: self.background.start(name, certify)

    def take_in(self) -> None:
        """Writes down the certificates that are made, without waiting for any."""
        made = [one for one in self._uncertified if self.background.ready(one[1])]
        for event, name, _ in made:
            event["certificate"] = self.background.take(name)
        self._uncertified = [one for one in self._uncertified if one not in made]

    def settle(self) -> None:
        """Waits for the certificates that are being made."""
        for event, name, certify in self._uncertified:
            self.background.start(name, certify)
            event["certificate"] = self.background.take(name)
        self._uncertified = []

    def save(self) -> dict[str, Any]:
        """As JSON holds it. Copies: it is written in the background while the run goes on."""
        self.take_in()
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
        """Takes back what `save` gave."""
        self.events = [dict(event) for event in saved["history"]]
        self.ledger = Ledger.from_json(saved["ledger"])
        self._counted, self.evaluation = dict(saved["counted"]), dict(saved["evaluation"])
        self._uncertified = []


def row_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as a row of metrics: numbers and words only. What nests is in the history."""
    row = {k: v for k, v in event.items() if isinstance(v, str | bool | int | float)}
    # These the loop writes itself, from its own counts; a table has lines enough of its own.
    left_out = ("step", "epoch", "examples", "seconds", "flops", "text")
    label = {
        "growth": f"→ {event.get('after')}",
        "lower": "lower rate",
        "stay": "no growth",
    }.get(event["event"], event["event"])
    return {k: v for k, v in row.items() if k not in left_out} | {"event": label}
