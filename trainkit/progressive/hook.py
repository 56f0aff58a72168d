"""The hook that makes a run grow: between two steps it stops, decays, waits, chooses or grows."""

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
from trainkit.progressive.decay import Decay
from trainkit.progressive.history import History, row_of
from trainkit.progressive.route import Route
from trainkit.progressive.stages.pace import begin_decay, lower
from trainkit.progressive.stages.prepared import PreparedStage
from trainkit.progressive.stages.triggers import Trigger
from trainkit.progressive.transition.switch import Placed
from trainkit.progressive.watch import Watch

PyTree = Any


class Growing:
    """A hook of `fit` that takes a run through its stages.

    Args:
      route: the stages.
      budget: of the whole run.
      target: what ends it early.
      decay: the share of the budget over which the learning rate falls at the end.
      wait: whether a stage ends at the very step at which its trigger fires.

    Attributes:
      history: what happened and what it cost.
      ended: why it ended, once it has.
      satisfied: whether the target was reached.
      alike: that it decides alike in every process, by counts on which they agree.
    """

    alike = True

    def __init__(
        self, route: Route, budget: Budget, *, target: Trigger | None, decay: float, wait: bool
    ):
        self.route, self.budget, self.decay = route, budget, Decay(budget, decay)
        self.background, self.wait = route.background, wait
        self.history, self.watch = History(route.background), Watch(target)
        self.ended: str | None = None
        self.satisfied = False
        self._after_first_step: list[Callable[[], Any]] = []
        self._first_step: Any = None  # an array that it computes
        self.watch.begin(self.here.stage.until, self.watch.base)

    @property
    def here(self) -> PreparedStage:
        """The stage it is in."""
        return self.route.here

    # -- the hook ------------------------------------------------------------------------------

    def __call__(self, now: Now) -> Change | None:
        """See `trainkit.loop.hooks.Hook`."""
        self._start_what_waits(now.state)
        if self.background.enabled:
            self.history.take_in()
        else:
            self.settle()
        fresh = bool(now.evaluated and now.steps) and self._evaluated(now.steps, now.evaluation)
        self.history.account(now, self.here)
        before = self.history.ledger.total
        change = self._change(now, fresh)
        # What was spent on probes and growth, so that the run's own count is the total.
        extra = self.history.ledger.total - before
        if extra:
            self.history.leave_out(extra)
            change = dataclasses.replace(change or Change(), flops=extra)
        return change

    def _change(self, now: Now, fresh: bool) -> Change | None:
        stop = self._why_stop(now, fresh)
        if stop is not None:
            return self._stop(stop)
        limit = self.decay.due(self.history.used(now))
        if limit is not None:
            return self._begin_decay(now, self.decay.steps_left, limit)
        if self.decay.under_way is not None:
            return None
        if not self.watch.over(self.history.counts(now), fresh):
            return None
        if not self.route.next:
            return self._last_stage_over(now)
        if not (self.wait or self.route.prepared):
            return None
        return self._advance(now)

    def _evaluated(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Takes in an evaluation; whether it is a new one."""
        if self.history.has_evaluation_of(step):
            return False
        self.history.evaluated(step, metrics, self.here)
        self.watch.evaluated(metrics)
        return True

    def _why_stop(self, now: Now, fresh: bool) -> str | None:
        if self.watch.reached(self.history.counts(now), fresh):
            self.satisfied = True
            return f"target reached: {self.watch.target}"
        return self.decay.spent(self.history.used(now)) or self.decay.over(now.steps)

    def _stop(self, reason: str) -> Change:
        """Ends the run; the loop then evaluates and saves, and `finish` takes that in."""
        self.ended = reason
        return Change(stop=reason)

    def _event(self, now: Now, event: str, **more: Any) -> dict[str, Any]:
        return self.history.event(now, event, self.route.level, **more)

    def _last_stage_over(self, now: Now) -> Change:
        reason = f"last stage ended: {self.here.stage.until}"
        if not self.decay.share:
            return self._stop(reason)
        return self._begin_decay(now, self.decay.steps_after, reason)

    def _begin_decay(self, now: Now, how_long: Callable[..., int], reason: str) -> Change:
        steps = how_long(self.history.used(now), self.watch.base, self.here)
        self.decay.under_way = {"until": now.steps + steps, "steps": steps, "reason": reason}
        pace = begin_decay(now.state.opt_state, at=now.steps, steps=steps)
        event = self._event(now, "decay", reason=f"{steps:,} steps left", steps=steps)
        return Change(state=now.state.replace(opt_state=pace), event=row_of(event))

    # -- growing -------------------------------------------------------------------------------

    def _advance(self, now: Now) -> Change:
        begin = time.perf_counter()
        choice, probed, in_time = 0, None, self.route.prepared
        if self.route.probes:
            probing = self.route.probing()
            probed = probing(now.state)
            self.history.spend(probe=probing.flops)
            best = probed["candidates"][probed["best"]]
            if best["kind"] != "grow":
                return self._not_grown(now, best, probed)
            choice = best["alternative"]
        small, transition = self.here, self.route.compiled(self.route.next[choice])
        big, growth = transition.big, transition.growth
        state, certify = transition(now.state)
        self.history.spend(growth=transition.flops)
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
        )
        # Work in the background must not slow down the first step; and what nobody waits for
        # comes last in it.
        self._first_step = None
        later = self.history.certify_later(event, certify)
        self._after_first_step = [self.route.prepare, later]
        self.route.taken.append(choice)
        self.watch.evaluated({})
        self.watch.begin(self.here.stage.until, self.history.counts(now))
        event["hook_seconds"] = time.perf_counter() - begin
        return Change(
            state=state,
            step=Placed(big, state),
            evaluate=big.evaluation,
            data=self._stream(small, big, now.epochs),
            event=row_of(event),
        )

    def _stream(self, small: PreparedStage, big: PreparedStage, epochs: float) -> Any:
        """The new stage's batches from where the run is in its passes; `None`: the same go on."""
        if big.stage.data == small.stage.data:
            big.data = small.data
            return None
        epoch = math.floor(epochs)
        big.data.restore(Position(epoch, round((epochs - epoch) * big.data.size)))
        return big.data

    def _not_grown(self, now: Now, best: Mapping[str, Any], probed: dict[str, Any]) -> Change:
        event = self._event(now, best["kind"], reason=best["name"], probe=probed)
        self.watch.begin(self.here.stage.until, self.history.counts(now))
        state = None
        if best["kind"] == "lower":
            pace, factor = now.state.opt_state, self.route.probe.lower
            assert factor is not None
            level = jax.device_put(lower(pace, factor).level, pace.level.sharding)
            state = now.state.replace(opt_state=pace._replace(level=level))
        return Change(state=state, event=row_of(event))

    def _start_what_waits(self, state: Any) -> None:
        if not self._after_first_step:
            return
        if self._first_step is None:
            self._first_step = state.step
        # A buffer that the second step was given is gone: the first is at least under way.
        if self._first_step.is_deleted() or self._first_step.is_ready():
            self._start_now()

    def _start_now(self) -> None:
        waits, self._after_first_step = self._after_first_step, []
        for start in waits:
            start()

    # -- the end, and from checkpoint to checkpoint --------------------------------------------

    def settle(self) -> None:
        """Waits for the certificates that are being made, as the last checkpoint does."""
        self._start_now()
        self.history.settle()

    def finish(self, result: Any) -> None:
        """Takes in how the loop ended, where it ended by a limit of its own."""
        evaluated = result.evaluated_at == result.steps
        here = {"metrics_at": result.steps, "evaluated": evaluated}
        names = [field.name for field in dataclasses.fields(Now) if field.name not in here]
        last = Now(**{name: getattr(result, name) for name in names}, **here)
        if evaluated:
            self._evaluated(last.steps, result.evaluation)
        self.history.account(last, self.here)
        reason = self.ended or self._why_stop(last, fresh=evaluated)
        self.ended = reason or result.stopped
        self._event(
            last,
            "end",
            reason=self.ended,
            finished=reason is not None,
            rate_left=self.decay.left(last.steps),
            evaluated=evaluated,
            **self.history.evaluation,
        )
        self.settle()

    def save(self) -> dict[str, Any]:
        """What a checkpoint holds of it; JSON."""
        return {
            "path": list(self.route.taken),
            "decaying": self.decay.under_way,
            **self.history.save(),
            **self.watch.save(),
        }

    def load(self, saved: Mapping[str, Any]) -> Change:
        """Goes to where a checkpoint says it was: the step, data and shapes of that stage."""
        self.route.taken = [int(k) for k in saved["path"]]
        self.decay.under_way = saved["decaying"]
        self._after_first_step = []
        here = self.here
        self.history.load(saved)
        self.watch.load(saved, here.stage.until)
        self.route.prepare()
        self._certify_again()
        return Change(state=here.fresh(), step=here.step, evaluate=here.evaluation, data=here.data)

    def _certify_again(self) -> None:
        """Makes the certificates that the stopped run had not finished."""
        growths = [event for event in self.history.events if event["event"] == "growth"]
        for level, event in enumerate(growths):
            if event["certificate"].get("pending"):
                small, big = self.route.taken[level : level + 2]
                transition = self.route.transitions[level, small, big]
                self.history.certify_later(event, transition.certificate_of_fresh)()
