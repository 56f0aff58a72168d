"""An evaluation whose program is compiled before it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from trainkit._core.validation import examples
from trainkit.cost import cost, count_flops
from trainkit.step.eval_step import EvalStep, make_eval_step
from trainkit.step.state import TrainState

PyTree = Any


class Evaluation:
    """`evaluation(state) -> {name: mean}` over fixed batches, compiled ahead.

    Args:
      loss_fn: as for `make_eval_step`.
      batches: the validation batches; they stay on the device.
      like: the shapes of the states that it will be given.
      placement, precision: as for `make_eval_step`.

    Attributes:
      metrics: the names that it computes.
    """

    def __init__(
        self,
        loss_fn: Any,
        batches: Iterable[PyTree],
        like: TrainState,
        *,
        placement: Any = "single",
        precision: Any = None,
    ):
        batches = [] if batches is None or isinstance(batches, Mapping) else list(batches)
        if not batches:
            raise ValueError(
                "validation has no batches: give a list of them, or a function Data -> list."
            )
        self._step: EvalStep = make_eval_step(loss_fn, placement=placement, precision=precision)
        self._batches, self._like = [self._placed(batch) for batch in batches], like
        # By the shapes of a batch: the last one of a data set is often smaller.
        self._programs: dict[Any, Any] = {}
        self._flops: float | None = None
        shapes = jax.eval_shape(self._step._sums, *self._arguments(like, self._batches[0]))
        self.metrics = frozenset(shapes)

    def _placed(self, batch: PyTree) -> PyTree:
        place = self._step.placement
        even = examples(batch, axis=0) % place.parts == 0
        return jax.device_put(batch, place.batch_sharding(0) if even else place.everywhere)

    def _arguments(self, state: TrainState, batch: PyTree) -> tuple[PyTree, ...]:
        return state.params, state.model_state, batch, state.rng

    def compile(self) -> Evaluation:
        """Compiles the program of every batch shape; itself, for chaining."""
        flops = 0.0
        counted: dict[Any, float] = {}
        for batch in self._batches:
            key = _shapes(batch)
            if key not in self._programs:
                arguments = self._arguments(self._like, batch)
                program = jax.jit(self._step._sums).lower(*arguments).compile()
                self._programs[key] = program
                counted[key] = cost(program).flops + _left_out(self._step._sums, arguments)
            flops += counted[key]
        self._flops = flops
        return self

    def rehearse(self, state: TrainState) -> None:
        """Runs each program once: a first run takes longer than those that follow."""
        shapes = {_shapes(batch): batch for batch in self._batches}
        for key, batch in shapes.items():
            jax.block_until_ready(self._programs[key](*self._arguments(state, batch)))

    @property
    def flops(self) -> float:
        """FLOPs of one evaluation over all batches."""
        if self._flops is None:
            self.compile()
        assert self._flops is not None
        return self._flops

    def __call__(self, state: TrainState) -> dict[str, float]:
        """The means over all batches, added up in float64 on the host."""
        if not self._programs:
            self.compile()
        sums = jax.device_get(
            [
                self._programs[_shapes(batch)](*self._arguments(state, batch))
                for batch in self._batches
            ]
        )
        means = {}
        for name in sums[0]:
            total, weight = np.sum([np.array(s[name], np.float64) for s in sums], axis=0)
            means[name] = float(total / weight)
        return means


def _left_out(function: Any, arguments: tuple[PyTree, ...]) -> float:
    """What XLA's count leaves out: all but the first turn of a loop."""
    return count_flops(function, *arguments) - count_flops(function, *arguments, loops_once=True)


def _shapes(batch: PyTree) -> Any:
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, tuple((x.shape, str(x.dtype)) for x in leaves)
