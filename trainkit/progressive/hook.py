"""The hook that makes a run grow: it watches, chooses, grows and keeps the books."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from trainkit.data.sampler import Position
from trainkit.growth.pace import begin_decay, lower
from trainkit.growth.until import Observation, Trigger
from trainkit.hooks import Change, Now
from trainkit.progressive.ahead import Ahead
from trainkit.progressive.built import Built
from trainkit.progressive.ledger import Ledger
from trainkit.progressive.limits import Limits
from trainkit.progressive.passage import Passage, Placed
from trainkit.progressive.probe import Price, Probe, Probing

PyTree = Any


class Growing:
    """A hook of `fit` that takes a run through its stages.

    Attributes:
      history: what happened, one mapping an event, as JSON holds it.
      ledger: what it cost.
      ended: why it ended, once it has.
      satisfied: whether the target was reached.
    """

    def __init__(
        self,
        levels: Sequence[Sequence[Built]],
        passages: Mapping[tuple[int, int, int], Passage],
        limits: Limits,
        *,
        target: Trigger | None,
        probe: Probe | None,
        price: Price,
        decay: float,
        ahead: Ahead,
    ):
        self.levels, self.passages, self.limits = levels, passages, limits
        self.target, self.probe, self.price, self.decay = target, probe, price, decay
        self.ahead = ahead
        self.path = [0]
        self.history: list[dict[str, Any]] = []
        self.ledger = Ledger()
        self.evaluation: dict[str, float] = {}
        self.ended: str | None = None
        self.satisfied = False
        self._decaying: dict[str, Any] | None = None  # until which step, and why
        self._target_state = target.init() if target else ()
        self._metrics: dict[str, float] = {}
        self._counted = {"examples": 0, "evaluated_at": -1, "flops": 0.0}
        self._waits: list[Callable[[], None]] = []
        self._uncertified: list[tuple[dict[str, Any], Hashable]] = []
        self._begin_stage(dict.fromkeys(("step", "epoch", "examples", "flops", "seconds"), 0))

    # -- where it is ---------------------------------------------------------------------------

    @property
    def level(self) -> int:
        """Which stage it is in, from 0."""
        return len(self.path) - 1

    @property
    def here(self) -> Built:
        """The stage it is in."""
        return self.levels[self.level][self.path[-1]]

    @property
    def ways_on(self) -> list[Passage]:
        """The growths that lead to the next level."""
        if self.level + 1 == len(self.levels):
            return []
        key = self.level, self.path[-1]
        return [self.passages[*key, k] for k in range(len(self.levels[self.level + 1]))]

    def prepare(self) -> None:
        """Begins to compile, in the background, what may come next."""
        ways = self.ways_on
        for passage in ways:
            # The probe needs the FLOPs of what it compares, so passages come first.
            self.ahead.start(passage, self._ready(passage))
        if ways and (len(ways) > 1 or self.probe is not None):
            probe = self.probe or Probe()
            here, price = self.here, self.price
            self.ahead.start(("probe", here), lambda: Probing(here, ways, probe, price).compile())

    def _ready(self, passage: Passage) -> Callable[[], Passage]:
        # A rehearsal takes time that is only worth it while something else goes on.
        rehearse = self.ahead.enabled
        return lambda: passage.compile().rehearse() if rehearse else passage.compile()

    # -- the hook ------------------------------------------------------------------------------

    def __call__(self, now: Now) -> Change | None:
        """See `trainkit.hooks.Hook`."""
        self._start_what_waits()
        if not self.ahead.enabled:
            self.settle()
        self._account(now)
        before = self.ledger.total
        change = self._change(now)
        # What was spent on anything but training steps, so that the run's own count is the total.
        extra = self.ledger.total - before
        self._counted["flops"] = now.flops + extra
        if extra:
            change = dataclasses.replace(change or Change(), flops=extra)
        return change

    def _change(self, now: Now) -> Change | None:
        fresh = now.evaluated and now.steps and self._counted["evaluated_at"] != now.steps
        if fresh:
            self._evaluated(now.steps, dict(now.evaluation))
        stop = self._why_stop(now, bool(fresh))
        if stop is not None:
            return self._stop(now, stop)
        change = self._decay_if_due(now)
        if self._decaying is not None:
            return change
        over = self._stage_over(now, bool(fresh))
        if not over:
            return None
        if not self.ways_on:
            return self._last_stage_over(now)
        return self._advance(now)

    def _account(self, now: Now) -> None:
        examples = now.examples - self._counted["examples"]
        self.ledger = self.ledger.plus(
            train=now.flops - self._counted["flops"],
            analytic=examples * self.here.analytic_per_example,
        )
        self._counted["examples"], self._counted["flops"] = now.examples, now.flops

    def _evaluated(self, step: int, metrics: dict[str, float]) -> None:
        self._counted["evaluated_at"] = step
        self._metrics = self.evaluation = metrics
        self.ledger = self.ledger.plus(evaluate=self.here.evaluation.flops)

    def _used(self, now: Now) -> dict[str, float]:
        return {
            "steps": now.steps,
            "epochs": now.epochs,
            "examples": now.examples,
            "seconds": now.seconds,
            "flops": self.ledger.total,
        }

    def _why_stop(self, now: Now, fresh: bool) -> str | None:
        if self.target is not None and fresh:
            seen = Observation(metrics=self._metrics, fresh=True)
            self._target_state, reached = self.target.update(self._target_state, seen)
            if reached:
                self.satisfied = True
                return f"target reached: {self.target}"
        share, name = self.limits.share(self._used(now))
        if name is not None and share >= 1:
            return self.limits.reason(name)
        if self._decaying is not None and now.steps >= self._decaying["until"]:
            return f"{self._decaying['reason']}, and the learning rate has decayed"
        return None

    def _stop(self, now: Now, reason: str) -> Change:
        if self._counted["evaluated_at"] != now.steps:
            self._evaluated(now.steps, self.here.evaluation(now.state))
        self.ended = reason
        self._event(now, "end", reason=reason, **self.evaluation)
        return Change(stop=reason)

    # -- triggers ------------------------------------------------------------------------------

    def _begin_stage(self, base: dict[str, Any]) -> None:
        self._base = base
        trigger = self.here.stage.until
        self._trigger_state = trigger.init() if trigger else ()

    def _stage_over(self, now: Now, fresh: bool) -> bool:
        trigger = self.here.stage.until
        if trigger is None:
            return False
        # Before the first evaluation of a stage a metric is NaN, of which nothing is true.
        metrics = dict.fromkeys(trigger.metrics, math.nan) | self._metrics
        seen = Observation(
            **{name: value - self._base[name] for name, value in self._counts(now).items()},
            metrics=metrics,
            fresh=fresh,
        )
        self._trigger_state, over = trigger.update(self._trigger_state, seen)
        return bool(over)

    def _counts(self, now: Now) -> dict[str, Any]:
        return {
            "step": now.steps,
            "epoch": now.epochs,
            "examples": now.examples,
            "flops": self.ledger.total,
            "seconds": now.seconds,
        }

    # -- the decay -----------------------------------------------------------------------------

    def _decay_if_due(self, now: Now) -> Change | None:
        if self._decaying is not None or not self.decay:
            return None
        share, name = self.limits.share(self._used(now))
        if name is None or share < 1 - self.decay:
            return None
        return self._begin_decay(now, self._steps_left(now), self.limits.reason(name))

    def _steps_left(self, now: Now) -> int:
        """How many more steps the budget has room for, at the rate of this stage so far."""
        used, base = self._used(now), {**self._base}
        took = max(now.steps - base["step"], 1)
        rates = {
            "steps": 1.0,
            "epochs": (now.epochs - base["epoch"]) / took,
            "examples": float(self.here.per_batch),
            "seconds": (now.seconds - base["seconds"]) / took,
            "flops": max((used["flops"] - base["flops"]) / took, self.here.flops_per_step),
        }
        return self.limits.steps_left(used, rates)

    def _begin_decay(self, now: Now, steps: int, reason: str) -> Change:
        self._decaying = {"until": now.steps + steps, "reason": reason}
        pace = begin_decay(now.state.opt_state, at=now.steps, steps=steps)
        event = self._event(now, "decay", reason=f"{steps:,} steps left", steps=steps)
        return Change(state=now.state.replace(opt_state=pace), event=_flat(event))

    def _last_stage_over(self, now: Now) -> Change:
        reason = f"last stage ended: {self.here.stage.until}"
        if not self.decay:
            return self._stop(now, reason)
        steps = max(1, round(now.steps * self.decay / (1 - self.decay)))
        if self.limits != Limits():
            steps = min(steps, self._steps_left(now))
        return self._begin_decay(now, steps, reason)

    # -- growing -------------------------------------------------------------------------------

    def _advance(self, now: Now) -> Change:
        begin = time.perf_counter()
        ways, choice, probed = self.ways_on, 0, None
        if len(ways) > 1 or self.probe is not None:
            probed, kind, choice = self._probe(now)
            if kind != "grow":
                return self._not_grown(now, kind, probed)
        small, passage = self.here, ways[choice]
        waited = not self.ahead.ready(passage)
        self.ahead.start(passage, self._ready(passage))
        self.ahead.get(passage)
        state, certify = passage(now.state)
        self.ledger = self.ledger.plus(growth=passage.flops)
        event = self._event(
            now,
            "growth",
            reason=str(small.stage.until),
            how=str(passage.big.stage.how),
            before=small.name,
            after=passage.big.name,
            parameters_before=small.parameters,
            parameters_after=passage.big.parameters,
            alternative=choice,
            text=passage.growth.text if passage.growth else "only the data grow",
            exact=passage.growth.exact if passage.growth else True,
            compiled_ahead=not waited,
            certificate={},
            probe=probed,
        )
        # When the first step is under way: work in the background must not slow down this one.
        name = ("certificate", len(self.history))
        self._waits = [lambda: self.ahead.start(name, certify), self.prepare]
        self._uncertified.append((event, name))
        self.path.append(choice)
        self._metrics = {}
        self._begin_stage(self._counts(now))
        event["hook_seconds"] = time.perf_counter() - begin
        changed = passage.big.stage.data != small.stage.data
        data = self._stream(passage.big, now.epochs) if changed else None
        if not changed:
            passage.big.data = small.data
        return Change(
            state=state,
            step=Placed(passage.big, state),
            evaluate=passage.big.evaluation,
            data=data,
            event=_flat(event),
        )

    def _stream(self, built: Built, epochs: float) -> Any:
        """The stage's batches, from where the run is in its passes over the data."""
        epoch = math.floor(epochs)
        offset = round((epochs - epoch) * built.data.size)
        built.data.restore(Position(epoch, offset))
        return built.data

    def _probe(self, now: Now) -> tuple[dict[str, Any], str, int]:
        name = ("probe", self.here)
        self.prepare()
        probing = self.ahead.get(name)
        found = probing(now.state)
        self.ledger = self.ledger.plus(probe=probing.flops)
        best = found["candidates"][found["best"]]
        return found, best["kind"], best["alternative"]

    def _not_grown(self, now: Now, kind: str, probed: dict[str, Any]) -> Change:
        best = probed["candidates"][probed["best"]]
        event = self._event(now, kind, reason=best["name"], probe=probed)
        self._begin_stage(self._counts(now))
        state = None
        if kind == "lower":
            pace = now.state.opt_state
            factor = (self.probe or Probe()).lower
            assert factor is not None
            level = jax.device_put(lower(pace, factor).level, pace.level.sharding)
            state = now.state.replace(opt_state=pace._replace(level=level))
        return Change(state=state, event=_flat(event))

    def finish(self, result: Any) -> None:
        """Takes in how the loop ended, where it ended by a limit of its own."""
        last = Now(
            steps=result.steps,
            epochs=result.epochs,
            examples=result.examples,
            flops=result.flops,
            seconds=result.seconds,
            state=result.state,
            evaluation=result.evaluation,
            evaluated=True,
        )
        self._account(last)
        if self.ended is None:
            if self._counted["evaluated_at"] != last.steps:
                self._evaluated(last.steps, dict(result.evaluation))
            self.ended = self._why_stop(last, fresh=True) or result.stopped
            self._event(last, "end", reason=self.ended, **self.evaluation)
        self.settle()

    # -- books ---------------------------------------------------------------------------------

    def _event(self, now: Now, event: str, **more: Any) -> dict[str, Any]:
        entry = {
            "event": event,
            "stage": self.level,
            "step": now.steps,
            "epoch": now.epochs,
            "examples": now.examples,
            "seconds": now.seconds,
            "flops": self.ledger.total,
            **more,
        }
        self.history.append(entry)
        return entry

    def _start_what_waits(self) -> None:
        waits, self._waits = self._waits, []
        for start in waits:
            start()

    def settle(self) -> None:
        """Waits for the certificates that are being made."""
        self._start_what_waits()
        for event, name in self._uncertified:
            event["certificate"] = self.ahead.take(name)
        self._uncertified.clear()

    def save(self) -> dict[str, Any]:
        """What a checkpoint holds of it; JSON."""
        self.settle()
        return {
            # Copies: it is written in the background while the run goes on.
            "path": list(self.path),
            "history": copy.deepcopy(self.history),
            "ledger": self.ledger.to_json(),
            "base": dict(self._base),
            "counted": dict(self._counted),
            "metrics": dict(self._metrics),
            "evaluation": dict(self.evaluation),
            "decaying": self._decaying,
            "trigger": _lists(self._trigger_state),
            "target": _lists(self._target_state),
        }

    def load(self, saved: Mapping[str, Any]) -> Change:
        """Goes to where a checkpoint says it was: the step, data and shapes of that stage."""
        self.path = [int(k) for k in saved["path"]]
        self.history = [dict(event) for event in saved["history"]]
        self.ledger = Ledger.from_json(saved["ledger"])
        self._begin_stage(dict(saved["base"]))
        self._counted, self._metrics = dict(saved["counted"]), dict(saved["metrics"])
        self.evaluation = dict(saved["evaluation"])
        self._decaying = saved["decaying"]
        self._trigger_state = _from_lists(saved["trigger"], self._trigger_state)
        self._target_state = _from_lists(saved["target"], self._target_state)
        self._waits, self._uncertified = [], []
        here = self.here
        self.prepare()
        return Change(state=here.fresh(), step=here.step, evaluate=here.evaluation, data=here.data)


def _flat(event: Mapping[str, Any]) -> dict[str, Any]:
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


def _lists(tree: PyTree) -> list[Any]:
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(tree)]


def _from_lists(saved: Sequence[Any], like: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    return jax.tree.unflatten(
        treedef, [np.asarray(value, leaf.dtype) for value, leaf in zip(saved, leaves, strict=True)]
    )
