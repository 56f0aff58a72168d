"""The hook that grows the model of a run: it decides between two steps what happens next."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from trainkit.data.sampler import Position
from trainkit.loop.hooks import Change, Now
from trainkit.loop.stopping import Budget
from trainkit.progressive.advice.expectation import Expectation
from trainkit.progressive.decay import Decay
from trainkit.progressive.history import History, row_of
from trainkit.progressive.stage_sequence import StageSequence
from trainkit.progressive.stages.pace import begin_decay, lower
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.stages.triggers import Trigger
from trainkit.progressive.transition.switch import PlacedStep
from trainkit.progressive.trigger_monitor import TriggerMonitor

PyTree = Any


class Growing:
    """A hook of `fit` that moves a run through its stages.

    Args:
      stages: the stages, and which of them is current.
      budget: the budget of the whole run.
      target: a trigger that ends the run early.
      decay: the fraction of the budget, at its end, over which the learning rate falls to 0.
      wait: whether a stage ends exactly at the step at which its trigger fires.
      expectation: what an advice expects of the run, for the events to be held against.

    Attributes:
      history: the events of the run, and its cost.
      ended: why the run ended; `None` while it trains.
      satisfied: whether the target was reached.
      alike: true: every process decides the same, because their counts agree.
    """

    alike = True

    def __init__(
        self,
        stages: StageSequence,
        budget: Budget,
        *,
        target: Trigger | None,
        decay: float,
        wait: bool,
        expectation: Expectation | None = None,
    ):
        self.stages, self.budget, self.decay = stages, budget, Decay(budget, decay)
        self.background, self.wait, self.expectation = stages.background, wait, expectation
        self.history, self.monitor = History(stages.background), TriggerMonitor(target)
        self.ended: str | None = None
        self.satisfied = False
        self._after_first_step: list[Callable[[], Any]] = []
        self._first_step: Any = None  # an array that the first step after a growth returns
        self.monitor.begin(self.current.stage.until, self.monitor.base)

    @property
    def current(self) -> PreparedStage:
        """The current stage."""
        return self.stages.current

    # -- the hook ------------------------------------------------------------------------------

    def __call__(self, now: Now) -> Change | None:
        """See `trainkit.loop.hooks.Hook`."""
        self._start_deferred(now.state)
        if self.background.enabled:
            self.history.collect_certificates()
        else:
            self.settle()
        fresh = bool(now.evaluated and now.steps) and self._evaluated(now.steps, now.evaluation)
        self.history.count_steps(now, self.current)
        before = self.history.ledger.total
        change = self._change(now, fresh)
        # FLOPs of probes and growth; the loop adds them to its own count.
        extra = self.history.ledger.total - before
        if extra:
            self.history.exclude_flops(extra)
            change = dataclasses.replace(change or Change(), flops=extra)
        return change

    def _change(self, now: Now, fresh: bool) -> Change | None:
        stop = self._stop_reason(now, fresh)
        if stop is not None:
            return self._stop(stop)
        limit = self.decay.due(self.history.used(now))
        if limit is not None:
            return self._begin_decay(now, self.decay.steps_left, limit)
        if self.decay.under_way is not None:
            return None
        if not self.monitor.over(self.history.counts(now), fresh):
            return None
        if not self.stages.next:
            return self._end_last_stage(now)
        if not (self.wait or self.stages.prepared):
            return None
        return self._advance(now)

    def _evaluated(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Records an evaluation; returns whether it is a new one."""
        if self.history.has_evaluation_of(step):
            return False
        self.history.evaluated(step, metrics, self.current)
        self.monitor.evaluated(metrics)
        return True

    def _stop_reason(self, now: Now, fresh: bool) -> str | None:
        if self.monitor.reached(self.history.counts(now), fresh):
            self.satisfied = True
            return f"target reached: {self.monitor.target}"
        return self.decay.spent(self.history.used(now)) or self.decay.over(now.steps)

    def _stop(self, reason: str) -> Change:
        """Ends the run. The loop then evaluates and saves; `finish` records the result."""
        self.ended = reason
        return Change(stop=reason)

    def _event(self, now: Now, event: str, **more: Any) -> dict[str, Any]:
        return self.history.event(now, event, self.stages.level, **more)

    def _end_last_stage(self, now: Now) -> Change:
        reason = f"last stage ended: {self.current.stage.until}"
        if not self.decay.share:
            return self._stop(reason)
        return self._begin_decay(now, self.decay.steps_after, reason)

    def _begin_decay(self, now: Now, how_long: Callable[..., int], reason: str) -> Change:
        steps = how_long(self.history.used(now), self.monitor.base, self.current)
        self.decay.under_way = {"until": now.steps + steps, "steps": steps, "reason": reason}
        pace = begin_decay(now.state.opt_state, at=now.steps, steps=steps)
        event = self._event(now, "decay", reason=f"{steps:,} steps left", steps=steps)
        return Change(state=now.state.replace(opt_state=pace), event=row_of(event))

    # -- growing -------------------------------------------------------------------------------

    def _advance(self, now: Now) -> Change:
        begin = time.perf_counter()
        choice, probed, in_time = 0, None, self.stages.prepared
        if self.stages.probes:
            program = self.stages.probe_program()
            probed = program(now.state)
            self.history.add_flops(probe=program.flops)
            best = probed["candidates"][probed["best"]]
            if best["kind"] != "grow":
                return self._not_grown(now, best, probed)
            choice = best["alternative"]
        small, transition = self.current, self.stages.compiled(self.stages.next[choice])
        big, growth = transition.big, transition.growth
        expected = self._expected(now)
        state, certify = transition(now.state)
        self.history.add_flops(growth=transition.flops)
        event = self._event(
            now,
            "growth",
            reason=str(small.stage.until),
            how=str(big.stage.how),
            before=small.name,
            after=big.name,
            parameters_before=small.parameters,
            parameters_after=big.parameters,
            alternative=choice,
            text=growth.text if growth else "only the data grow",
            exact=growth.exact if growth else True,
            compiled_ahead=in_time,
            certificate={},
            probe=probed,
            **expected,
        )
        # Background work starts only after the first step, which it would slow down. The
        # certificate comes last, because nothing waits for it.
        self._first_step = None
        later = self.history.certify_later(event, certify)
        self._after_first_step = [self.stages.prepare, later]
        self.stages.path.append(choice)
        self.monitor.evaluated({})
        self.monitor.begin(self.current.stage.until, self.history.counts(now))
        event["hook_seconds"] = time.perf_counter() - begin
        return Change(
            state=state,
            step=PlacedStep(big, state),
            evaluate=big.evaluation,
            data=self._stream(small, big, now.epochs),
            event=row_of(event),
        )

    def _expected(self, now: Now) -> dict[str, float]:
        """What an advice expects before a growth, and what came: an evaluation of its own."""
        if self.expectation is None:
            return {}
        self.history.add_flops(evaluate=self.current.evaluation.flops)
        return self.expectation.at_growth(self.current.evaluation(now.state))

    def _stream(self, small: PreparedStage, big: PreparedStage, epochs: float) -> Any:
        """The new stage's batches, from the same fraction of an epoch; `None`: no change."""
        if big.stage.data == small.stage.data:
            big.data = small.data
            return None
        epoch = math.floor(epochs)
        big.data.restore(Position(epoch, round((epochs - epoch) * big.data.size)))
        return big.data

    def _not_grown(self, now: Now, best: Mapping[str, Any], probed: dict[str, Any]) -> Change:
        event = self._event(now, best["kind"], reason=best["name"], probe=probed)
        self.monitor.begin(self.current.stage.until, self.history.counts(now))
        state = None
        if best["kind"] == "lower":
            pace, factor = now.state.opt_state, self.stages.probe.lower
            assert factor is not None
            level = jax.device_put(lower(pace, factor).level, pace.level.sharding)
            state = now.state.replace(opt_state=pace._replace(level=level))
        return Change(state=state, event=row_of(event))

    def _start_deferred(self, state: Any) -> None:
        """Starts the deferred background work once the first step after a growth has run."""
        if not self._after_first_step:
            return
        if self._first_step is None:
            self._first_step = state.step
        # If the second step has already reused the buffer, the first is at least running.
        if self._first_step.is_deleted() or self._first_step.is_ready():
            self._start_now()

    def _start_now(self) -> None:
        deferred, self._after_first_step = self._after_first_step, []
        for start in deferred:
            start()

    # -- the end, and checkpoints ---------------------------------------------------------------

    def settle(self) -> None:
        """Waits for pending certificates, so that the last checkpoint contains them."""
        self._start_now()
        self.history.settle()

    def finish(self, result: Any) -> None:
        """Records the result of the loop, which may have ended by a limit of its own."""
        evaluated = result.evaluated_at == result.steps
        here = {"metrics_at": result.steps, "evaluated": evaluated}
        names = [field.name for field in dataclasses.fields(Now) if field.name not in here]
        last = Now(**{name: getattr(result, name) for name in names}, **here)
        if evaluated:
            self._evaluated(last.steps, result.evaluation)
        self.history.count_steps(last, self.current)
        reason = self.ended or self._stop_reason(last, fresh=evaluated)
        self.ended = reason or result.stopped
        self._event(
            last,
            "end",
            reason=self.ended,
            finished=reason is not None,
            rate_left=self.decay.left(last.steps),
            evaluated=evaluated,
            **self.history.evaluation,
            **(self.expectation.at_end(self.history.evaluation) if self.expectation else {}),
        )
        self.settle()

    def save(self) -> dict[str, Any]:
        """The state of the hook as JSON, for a checkpoint."""
        return {
            "path": list(self.stages.path),
            "decaying": self.decay.under_way,
            **self.history.save(),
            **self.monitor.save(),
        }

    def load(self, saved: Mapping[str, Any]) -> Change:
        """Restores the result of `save`; returns the step, data and shapes of that stage."""
        self.stages.path = [int(k) for k in saved["path"]]
        self.decay.under_way = saved["decaying"]
        self._after_first_step = []
        current = self.current
        self.history.load(saved)
        self.monitor.load(saved, current.stage.until)
        self.stages.prepare()
        self._certify_again()
        state, evaluate = current.initial_state(), current.evaluation
        return Change(state=state, step=current.step, evaluate=evaluate, data=current.data)

    def _certify_again(self) -> None:
        """Computes the certificates that were pending when the run was stopped."""
        growths = [event for event in self.history.events if event["event"] == "growth"]
        for level, event in enumerate(growths):
            if event["certificate"].get("pending"):
                small, big = self.stages.path[level : level + 2]
                transition = self.stages.transitions[level, small, big]
                self.history.certify_later(event, transition.certificate_of_initial_state)()
