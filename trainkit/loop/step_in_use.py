"""The step in use, and the stream that feeds it: both change when a run grows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from trainkit._core.buffers import owned
from trainkit._core.paths import named_leaves
from trainkit._core.validation.trees import differences
from trainkit.cost import step_flops
from trainkit.data.prefetch import Prefetch
from trainkit.data.stacked import Stacked
from trainkit.data.waiting import SHARE, Waiting
from trainkit.loop.arguments.validation import result_of
from trainkit.loop.interrupts import Interrupts
from trainkit.loop.record import Record
from trainkit.loop.run_log import RunLog
from trainkit.step.eval_step import make_eval_step
from trainkit.step.state import TrainState
from trainkit.step.statistics import refresh_statistics
from trainkit.step.train_step import TrainStep
from trainkit.transforms.wrappers.average import swap

PyTree = Any
BATCHES = 64  # on which the statistics of averages are computed, unless said otherwise


def own(step: Any) -> Any:
    """The step for states that nobody else keeps: one of `make_train_step` then donates them."""
    return step.donating() if isinstance(step, TrainStep) else step


class StepInUse:
    """A step with the batches that are read ahead for it.

    Attributes:
      stream: of `(placed batch, examples in it)`.
      steps_per_call: optimizer steps that a call makes.
      flops_per_call: of a call; known once it is compiled.
      compiled: whether that has been done.
    """

    def __init__(
        self, step: Any, data: Any, prefetch: int, interrupts: Interrupts, averages: bool | int
    ):
        self.step, self._data = step, data
        self._averages = BATCHES if averages is True else int(averages)
        self.steps_per_call = getattr(step, "steps_per_call", 1)
        self.flops_per_call = 0.0
        self._origin = 0
        self.compiled = self._called = False
        self._waiting = Waiting()
        self._shapes: Any = None  # of state and batch, by name, when it was compiled last
        self._compiles = 0
        place = getattr(step, "place_batch", owned)
        stacked = Stacked(data, self.steps_per_call, interrupts.awaited)
        self.stream = Prefetch(stacked, lambda drawn: (place(drawn[0]), drawn[1]), prefetch)

    def draw(self) -> tuple[PyTree, int] | None:
        """The next batch and how many examples it has; `None` at the end of the data."""
        begin = time.perf_counter()
        drawn = next(self.stream, None)
        self._waiting.drawn(time.perf_counter() - begin)
        return drawn

    def place(self, state: TrainState) -> TrainState:
        """The state where the step wants it."""
        return self.step.place(state) if hasattr(self.step, "place") else state

    def evaluated(self, state: TrainState) -> TrainState:
        """The state that evaluation sees: where that was asked for, the averages of the parameters.

        Their statistics are those of the batches that come next: a run that was resumed here sees
        the same.
        """
        if not self._averages:
            return state
        state = swap(state)
        if not jax.tree.leaves(state.model_state):
            return state
        place = make_eval_step(self.step.loss_fn, placement=self.step.placement).place_batch
        batches = map(place, self._next(self._averages))
        return refresh_statistics(self.step.loss_fn, state, batches, precision=self.step.precision)

    def _next(self, count: int) -> Iterator[PyTree]:
        position = self.stream.position
        for _ in range(count):
            batch, position = self._data.draw(position)
            yield batch

    def begin_at(self, epoch: float) -> None:
        """Counts passes over the data from here, where the run has made `epoch` of them."""
        if self._taken is not None:
            self._origin = round(self._taken - epoch * self._data.size)

    @property
    def epoch(self) -> float:
        """Passes over the data, with their fraction where the data knows its size."""
        return 0.0 if self._taken is None else (self._taken - self._origin) / self._data.size

    @property
    def _taken(self) -> int | None:
        """Examples that lie behind the data's own place, those dropped at ends included."""
        position = self.stream.position
        if not hasattr(position, "epoch"):
            return None
        return position.epoch * self._data.size + position.offset

    def compile(self, state: TrainState, batch: PyTree, log: RunLog, record: Record) -> None:
        """Compiles the step, where that can be done before its first call, and counts its FLOPs."""
        self.compiled = True
        begin = time.perf_counter()
        if hasattr(self.step, "compile"):
            self.step.compile(state, batch)
            log.compile_seconds += time.perf_counter() - begin
        self.flops_per_call = step_flops(self.step, state, batch)
        log.flops_per_step = self.flops_per_call / self.steps_per_call
        self._compiles, self._shapes = self._count(), _shapes(state, batch)
        log.start_or_pause(record, time.perf_counter() - begin)

    def call(
        self, state: TrainState, batch: PyTree, log: RunLog, *, norms: bool
    ) -> tuple[TrainState, Mapping[str, jax.Array], str | None]:
        """What the step returns, and in words why it was compiled again, if it was.

        The time of such a call counts as that of compiling. `norms`: whether to ask for the norms,
        of a step that gives them when asked.
        """
        first = not (self._called or hasattr(self.step, "compile"))
        self._called = True
        begin = time.perf_counter()
        asked = {"norms": norms} if getattr(self.step, "norms", False) is None else {}
        after, metrics = result_of(self.step(state, batch, **asked))
        compiles = self._count()
        if not first and compiles <= self._compiles:
            return after, metrics, None
        took = time.perf_counter() - begin
        log.compile_seconds += took
        log.pause(took)
        self._compiles, before = compiles, self._shapes
        self._shapes = _shapes(state, batch)
        if first:
            return after, metrics, None
        changed = differences(self._shapes, before, dtypes=True)
        parts = [f"{name} has {a}, and had {b}" for name, (a, b) in list(changed.items())[:3]]
        why = "; ".join(parts) or "shapes and dtypes are the same"
        return after, metrics, f"compiled again in {took:.1f} s: {why}"

    def waited(self, metrics: Mapping[str, Any]) -> float | None:
        """Notes a call's metrics; the share of time that the device waits for data, if large."""
        self._waiting.dispatched(metrics.get("loss"))
        share = self._waiting.share()
        return share if share is not None and share > SHARE else None

    def _count(self) -> int:
        """Programs that the step has been compiled to, where it says."""
        own = getattr(self.step, "compiles", None)
        jitted = getattr(self.step, "_cache_size", lambda: 0)
        return own if isinstance(own, int) else jitted()


def _shapes(state: TrainState, batch: PyTree) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for name, x in named_leaves({"batch": batch, "state": state}).items()
        if hasattr(x, "shape") and hasattr(x, "dtype")
    }
