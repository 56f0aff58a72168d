"""The trigger states of a run: whether its stage has ended, and whether its target is reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from trainkit.progressive.stages.triggers import Observation, Trigger

PyTree = Any
COUNTS = ("step", "epoch", "examples", "flops", "seconds")


class TriggerMonitor:
    """The states of a stage's trigger and of the run's target, kept on the host.

    Attributes:
      base: the counts of the run when the stage began.
      due: whether the stage's trigger has fired.
    """

    def __init__(self, target: Trigger | None):
        self.target = target
        self._target_state: PyTree = target.init() if target else ()
        # Metrics of this stage only.
        self._metrics: dict[str, float] = {}
        self.begin(None, dict.fromkeys(COUNTS, 0))

    def begin(self, trigger: Trigger | None, counts: Mapping[str, Any]) -> None:
        """Starts a stage with this trigger, at these counts."""
        self.trigger, self.base, self.due = trigger, dict(counts), False
        self._state: PyTree = trigger.init() if trigger else ()

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Stores the metrics of an evaluation of this stage; `{}` if there is none yet."""
        self._metrics = dict(metrics)

    def over(self, counts: Mapping[str, Any], fresh: bool) -> bool:
        """Whether the stage has ended; `fresh`: there is a new evaluation."""
        if self.trigger is None or self.due:
            return self.due
        # Before the stage's first evaluation a metric is NaN: no comparison with it is true.
        metrics = dict.fromkeys(self.trigger.metrics, math.nan) | self._metrics
        since = {name: value - self.base[name] for name, value in counts.items()}
        seen = Observation(**since, metrics=metrics, fresh=fresh)
        self._state, over = self.trigger.update(self._state, seen)
        self.due = bool(over)
        return self.due

    def reached(self, counts: Mapping[str, Any], fresh: bool) -> bool:
        """Whether the run's target is reached; checked only at a new evaluation."""
        if self.target is None or not fresh:
            return False
        seen = Observation(**counts, metrics=self._metrics, fresh=True)
        self._target_state, reached = self.target.update(self._target_state, seen)
        return bool(reached)

    def save(self) -> dict[str, Any]:
        """The states as JSON values."""
        return {
            "base": dict(self.base),
            "due": self.due,
            "metrics": dict(self._metrics),
            "trigger": _lists(self._state),
            "target": _lists(self._target_state),
        }

    def load(self, saved: Mapping[str, Any], trigger: Trigger | None) -> None:
        """Restores the result of `save`; `trigger` is that of the saved stage."""
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
