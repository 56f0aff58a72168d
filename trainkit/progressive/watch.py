"""Whether a stage is over and whether the run's target is reached: triggers with their memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from trainkit.progressive.stages.triggers import Observation, Trigger

PyTree = Any
COUNTS = ("step", "epoch", "examples", "flops", "seconds")


class Watch:
    """The triggers of a run on the host.

    Attributes:
      base: what had been counted when the stage began.
      due: whether the stage's trigger has fired.
    """

    def __init__(self, target: Trigger | None):
        self.target = target
        self._target_state: PyTree = target.init() if target else ()
        # Of this stage only: another stage's metrics say nothing about it.
        self._metrics: dict[str, float] = {}
        self.begin(None, dict.fromkeys(COUNTS, 0))

    def begin(self, trigger: Trigger | None, counts: Mapping[str, Any]) -> None:
        """Begins to wait for a stage's trigger, from these counts on."""
        self.trigger, self.base, self.due = trigger, dict(counts), False
        self._state: PyTree = trigger.init() if trigger else ()

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Takes in an evaluation of this stage; an empty one says that there is none yet."""
        self._metrics = dict(metrics)

    def over(self, counts: Mapping[str, Any], fresh: bool) -> bool:
        """Whether the stage is over; `fresh` says that there is a new evaluation."""
        if self.trigger is None or self.due:
            return self.due
        # Before the first evaluation of a stage a metric is NaN, of which nothing is true.
        metrics = dict.fromkeys(self.trigger.metrics, math.nan) | self._metrics
        since = {name: value - self.base[name] for name, value in counts.items()}
        seen = Observation(**since, metrics=metrics, fresh=fresh)
        self._state, over = self.trigger.update(self._state, seen)
        self.due = bool(over)
        return self.due

    def reached(self, counts: Mapping[str, Any], fresh: bool) -> bool:
        """Whether the run's target is reached; only a new evaluation can tell."""
        if self.target is None or not fresh:
            return False
        seen = Observation(**counts, metrics=self._metrics, fresh=True)
        self._target_state, reached = self.target.update(self._target_state, seen)
        return bool(reached)

    def save(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "base": dict(self.base),
            "due": self.due,
            "metrics": dict(self._metrics),
            "trigger": _lists(self._state),
            "target": _lists(self._target_state),
        }

    def load(self, saved: Mapping[str, Any], trigger: Trigger | None) -> None:
        """Takes back what `save` gave; `trigger` is that of the stage it was in."""
        self.begin(trigger, saved["base"])
        self.due = bool(saved["due"])
        self._metrics = dict(saved["metrics"])
        self._state = _from_lists(saved["trigger"], self._state)
        self._target_state = _from_lists(saved["target"], self._target_state)


def _lists(tree: PyTree) -> list[Any]:
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(tree)]


def _from_lists(saved: Sequence[Any], like: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    return jax.tree.unflatten(
        treedef, [np.asarray(value, leaf.dtype) for value, leaf in zip(saved, leaves, strict=True)]
    )
