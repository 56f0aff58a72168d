"""An evaluation over fixed batches, compiled ahead of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from trainkit._core import validation
from trainkit._core.processes import alone, in_step
from trainkit.cost import program_flops
from trainkit.placement.shares import on_own_device
from trainkit.step.eval_step import make_eval_step, means
from trainkit.step.state import TrainState

PyTree = Any


class Evaluation:
    """`evaluation(state) -> {name: mean}` over fixed batches, compiled ahead of time.

    Args:
      loss_fn: as for `make_eval_step`.
      batches: the validation batches; they stay on the device.
      like: the shapes, dtypes and shardings of the states to evaluate.
      placement, precision: as for `make_eval_step`.

    Attributes:
      batches: the batches on the device.
      metrics: the names of the metrics.
      flops: FLOPs of one evaluation over all batches.

    Raises:
      ValueError: there is no batch.
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
        if batches is None or isinstance(batches, Mapping) or not isinstance(batches, Iterable):
            batches = []
        batches = list(batches)
        if not batches:
            raise ValueError(
                "validation has no batches: give a list of them, or a function Data -> list."
            )
        for number, batch in enumerate(batches):
            validation.leading_size(batch, f"validation[{number}]")
            if hasattr(loss_fn, "refuse_values"):
                loss_fn.refuse_values(like.params, like.model_state, batch)
        step = make_eval_step(loss_fn, placement=placement, precision=precision)
        self.batches = [step.place_batch(batch) for batch in in_step(batches, "validation batches")]
        self._like = like
        # Fetched now: this needs all processes, and a later use may be in another thread.
        self._on_host = None if alone() else [fetched(batch) for batch in self.batches]
        self._program = step.program
        # One program for each batch shape: the last batch of a data set is often smaller.
        self._compiled: dict[Any, Any] = {}
        self._flops: dict[Any, float] = {}
        shapes = jax.eval_shape(self._program, *_arguments(like, self.batches[0]))
        self.metrics = frozenset(shapes)

    def on_host(self) -> list[PyTree]:
        """The whole batches as NumPy arrays."""
        return self._on_host or [fetched(batch) for batch in self.batches]

    def compile(self) -> Evaluation:
        """Compiles a program for each batch shape, and returns `self`."""
        for batch in self.batches:
            key = _shapes(batch)
            if key not in self._compiled:
                arguments = _arguments(self._like, batch)
                compiled = jax.jit(self._program).lower(*arguments).compile()
                self._compiled[key] = compiled
                self._flops[key] = program_flops(self._program, arguments, compiled)
        return self

    def rehearse(self, state: TrainState) -> None:
        """Runs each program once, because the first run takes longer than the later ones."""
        for batch in {_shapes(batch): batch for batch in self.batches}.values():
            jax.block_until_ready(self._sums(state, batch))

    @property
    def flops(self) -> float:
        self.compile()
        return sum(self._flops[_shapes(batch)] for batch in self.batches)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """The means over all batches, accumulated in float64 on the host."""
        self.compile()
        return means([self._sums(state, batch) for batch in self.batches])

    def _sums(self, state: TrainState, batch: PyTree) -> Any:
        return self._compiled[_shapes(batch)](*_arguments(state, batch))


def fetched(batch: PyTree) -> PyTree:
    """A whole placed batch as NumPy arrays."""
    return jax.tree.map(np.asarray, on_own_device(batch))


def _arguments(state: TrainState, batch: PyTree) -> tuple[PyTree, ...]:
    return state.params, state.model_state, batch, state.rng


def _shapes(batch: PyTree) -> Any:
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, tuple((x.shape, str(x.dtype)) for x in leaves)
