"""The step in use, and the stream that feeds it: both change when a run grows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from trainkit._core.buffers import owned
from trainkit.cost import step_flops
from trainkit.data.prefetch import Prefetch
from trainkit.data.stacked import Stacked
from trainkit.loop.interrupts import Interrupts
from trainkit.loop.record import Record
from trainkit.loop.run_log import RunLog
from trainkit.step.eval_step import make_eval_step
from trainkit.step.state import TrainState
from trainkit.step.statistics import refresh_statistics
from trainkit.transforms.wrappers.average import swap

PyTree = Any
BATCHES = 64  # on which the statistics of averages are computed, unless said otherwise


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
        place = getattr(step, "place_batch", owned)
        stacked = Stacked(data, self.steps_per_call, interrupts.awaited)
        self.stream = Prefetch(stacked, lambda drawn: (place(drawn[0]), drawn[1]), prefetch)

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
        log.start_or_pause(record, time.perf_counter() - begin)

    @contextlib.contextmanager
    def first_call(self, log: RunLog) -> Iterator[None]:
        """Takes the first call for compiling, of a step that cannot be compiled before it."""
        if self._called or hasattr(self.step, "compile"):
            yield
            return
        self._called = True
        begin = time.perf_counter()
        yield
        took = time.perf_counter() - begin
        log.compile_seconds += took
        log.pause(took)
