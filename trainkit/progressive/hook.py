"""The hook that makes a run grow: it watches, chooses and grows."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from trainkit.data.sampler import Position
from trainkit.loop.hooks import Change, Now
from trainkit.progressive.background import Ahead
from trainkit.progressive.decay import Decay
from trainkit.progressive.history import Books, row_of
from trainkit.progressive.limits import Limits
from trainkit.progressive.pace import begin_decay, lower
from trainkit.progressive.prepare import Built
from trainkit.progressive.probe import Price, Probe, Probing
from trainkit.progressive.transition.switch import Placed, Transition
from trainkit.progressive.triggers import Trigger
from trainkit.progressive.watch import Watch

PyTree = Any


class Growing:
    """A hook of `fit` that takes a run through its stages.

    Attributes:
      books: what happened and what it cost.
      ended: why it ended, once it has.
      satisfied: whether the target was reached.
    """

    def __init__(
        self,
        levels: Sequence[Sequence[Built]],
        transitions: Mapping[tuple[int, int, int], Transition],
        limits: Limits,
        *,
        target: Trigger | None,
        probe: Probe | None,
        price: Price,
        decay: float,
        ahead: Ahead,
        wait: bool,
    ):
        self.levels, self.transitions = levels, transitions
        self.limits, self.decay = limits, Decay(limits, decay)
        self.probe, self.price, self.wait = probe, price, wait
        self.ahead = ahead
        self.path = [0]
        self.books, self.watch = Books(ahead), Watch(target)
        self.ended: str | None = None
        self.satisfied = False
        self._after_first_step: list[Callable[[], Any]] = []
        self._first_step: Any = None  # an array that it computes
        self.watch.begin(self.here.stage.until, self.watch.base)

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
    def ways_on(self) -> list[Transition]:
        """The growths that lead to the next level."""
        if self.level + 1 == len(self.levels):
            return []
        key = self.level, self.path[-1]
        return [self.transitions[*key, k] for k in range(len(self.levels[self.level + 1]))]

    # -- ahead of time -------------------------------------------------------------------------

    def prepare(self) -> None:
        """Begins to compile, in the background, what may come next."""
        ways = self.ways_on
        for transition in ways:
            # The probe needs the FLOPs of what it compares, so transitions come first.
            self.ahead.start(transition, self._ready(transition))
        if self._probes:
            probe = self.probe or Probe()
            here, price = self.here, self.price
            self.ahead.start(("probe", here), lambda: Probing(here, ways, probe, price).compile())

    @property
    def prepared(self) -> bool:
        """Whether all that may come next is compiled."""
        names = [*self.ways_on, *([("probe", self.here)] if self._probes else [])]
        return all(self.ahead.ready(name) for name in names)

    @property
    def _probes(self) -> bool:
        return bool(self.ways_on) and (len(self.ways_on) > 1 or self.probe is not None)

    def _ready(self, transition: Transition) -> Callable[[], Transition]:
        # A rehearsal takes time that is only worth it while something else goes on.
        rehearse = self.ahead.enabled
        return lambda: transition.compile().rehearse() if rehearse else transition.compile()

    # -- the hook ------------------------------------------------------------------------------

    def __call__(self, now: Now) -> Change | None:
        """See `trainkit.loop.hooks.Hook`."""
        self._start_what_waits(now.state)
        if self.ahead.enabled:
            self.books.take_in()
        else:
            self.settle()
        self.books.account(now, self.here)
        before = self.books.ledger.total
        change = self._change(now)
        # What was spent on anything but training steps, so that the run's own count is the total.
        extra = self.books.ledger.total - before
        if extra:
            self.books.leave_out(extra)
            change = dataclasses.replace(change or Change(), flops=extra)
        return change

    def _change(self, now: Now) -> Change | None:
        fresh = bool(now.evaluated and now.steps) and not self.books.has_evaluation_of(now.steps)
        if fresh:
            self._evaluated(now.steps, now.evaluation)
        stop = self._why_stop(now, fresh)
        if stop is not None:
            return self._stop(now, stop)
        limit = self.decay.due(self.books.used(now))
        if limit is not None:
            return self._begin_decay(now, self.decay.steps_left, limit)
        if self.decay.under_way is not None:
            return None
        if not self.watch.over(self.books.counts(now), fresh):
            return None
        if not self.ways_on:
            return self._last_stage_over(now)
        if not (self.wait or self.prepared):
            return None
        return self._advance(now)

    def _evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.books.evaluated(step, metrics, self.here)
        self.watch.evaluated(metrics)

    def _why_stop(self, now: Now, fresh: bool) -> str | None:
        if self.watch.reached(self.books.counts(now), fresh):
            self.satisfied = True
            return f"target reached: {self.watch.target}"
        share, name = self.limits.share(self.books.used(now))
        if name is not None and share >= 1:
            return self.limits.reason(name)
        return self.decay.over(now.steps)

    def _stop(self, now: Now, reason: str) -> Change:
        if not self.books.has_evaluation_of(now.steps):
            self._evaluated(now.steps, self.here.evaluation(now.state))
        self._end(now, reason)
        return Change(stop=reason)

    def _end(self, now: Now, reason: str) -> None:
        self.ended = reason
        self._event(now, "end", reason=reason, **self.books.evaluation)

    def _event(self, now: Now, event: str, **more: Any) -> dict[str, Any]:
        return self.books.event(now, event, self.level, **more)

    def _last_stage_over(self, now: Now) -> Change:
        reason = f"last stage ended: {self.here.stage.until}"
        if not self.decay.share:
            return self._stop(now, reason)
        return self._begin_decay(now, self.decay.steps_after, reason)

    def _begin_decay(self, now: Now, how_long: Callable[..., int], reason: str) -> Change:
        steps = how_long(self.books.used(now), self.watch.base, self.here)
        self.decay.under_way = {"until": now.steps + steps, "reason": reason}
        pace = begin_decay(now.state.opt_state, at=now.steps, steps=steps)
        event = self._event(now, "decay", reason=f"{steps:,} steps left", steps=steps)
        return Change(state=now.state.replace(opt_state=pace), event=row_of(event))

    # -- growing -------------------------------------------------------------------------------

    def _advance(self, now: Now) -> Change:
        begin = time.perf_counter()
        ways, choice, probed = self.ways_on, 0, None
        in_time = self.prepared
        if self._probes:
            probed = self._probe(now)
            best = probed["candidates"][probed["best"]]
            if best["kind"] != "grow":
                return self._not_grown(now, best, probed)
            choice = best["alternative"]
        small, transition = self.here, ways[choice]
        self.ahead.start(transition, self._ready(transition))
        self.ahead.get(transition)
        state, certify = transition(now.state)
        self.books.spend(growth=transition.flops)
        event = self._event(
            now,
            "growth",
            reason=str(small.stage.until),
            how=str(transition.big.stage.how),
            before=small.name,
            after=transition.big.name,
            parameters_before=small.parameters,
            parameters_after=transition.big.parameters,
            alternative=choice,
            text=transition.growth.text if transition.growth else "only the data grow",
            exact=transition.growth.exact if transition.growth else True,
            compiled_ahead=in_time,
            certificate={},
            probe=probed,
        )
        # Work in the background must not slow down the first step; and what nobody waits for
        # comes last in it.
        self._first_step = None
        self._after_first_step = [self.prepare, self.books.certify_later(event, certify)]
        self.path.append(choice)
        self.watch.evaluated({})
        self.watch.begin(self.here.stage.until, self.books.counts(now))
        event["hook_seconds"] = time.perf_counter() - begin
        changed = transition.big.stage.data != small.stage.data
        data = self._stream(transition.big, now.epochs) if changed else None
        if not changed:
            transition.big.data = small.data
        return Change(
            state=state,
            step=Placed(transition.big, state),
            evaluate=transition.big.evaluation,
            data=data,
            event=row_of(event),
        )

    def _stream(self, built: Built, epochs: float) -> Any:
        """The stage's batches, from where the run is in its passes over the data."""
        epoch = math.floor(epochs)
        offset = round((epochs - epoch) * built.data.size)
        built.data.restore(Position(epoch, offset))
        return built.data

    def _probe(self, now: Now) -> dict[str, Any]:
        self.prepare()
        probing = self.ahead.get(("probe", self.here))
        found = probing(now.state)
        self.books.spend(probe=probing.flops)
        return found

    def _not_grown(self, now: Now, best: Mapping[str, Any], probed: dict[str, Any]) -> Change:
        event = self._event(now, best["kind"], reason=best["name"], probe=probed)
        self.watch.begin(self.here.stage.until, self.books.counts(now))
        state = None
        if best["kind"] == "lower":
            pace = now.state.opt_state
            factor = (self.probe or Probe()).lower
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
        self.books.settle()

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
        self.books.account(last, self.here)
        if self.ended is None:
            if not self.books.has_evaluation_of(last.steps):
                self._evaluated(last.steps, result.evaluation)
            self._end(last, self._why_stop(last, fresh=True) or result.stopped)
        self.settle()

    def save(self) -> dict[str, Any]:
        """What a checkpoint holds of it; JSON."""
        return {
            "path": list(self.path),
            "decaying": self.decay.under_way,
            **self.books.save(),
            **self.watch.save(),
        }

    def load(self, saved: Mapping[str, Any]) -> Change:
        """Goes to where a checkpoint says it was: the step, data and shapes of that stage."""
        self.path = [int(k) for k in saved["path"]]
        self.decay.under_way = saved["decaying"]
        self._after_first_step = []
        here = self.here
        self.books.load(saved)
        self.watch.load(saved, here.stage.until)
        self.prepare()
        self._certify_again()
        return Change(state=here.fresh(), step=here.step, evaluate=here.evaluation, data=here.data)

    def _certify_again(self) -> None:
        """Makes the certificates that the stopped run had not finished."""
        growths = [event for event in self.books.history if event["event"] == "growth"]
        for level, event in enumerate(growths):
            if event["certificate"].get("pending"):
                transition = self.transitions[level, self.path[level], self.path[level + 1]]
                self.books.certify_later(event, transition.certificate_of_fresh)()
