"""Batches with their numbers of examples, stacked for steps that take several per call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from trainkit._core import validation
from trainkit._core.buffers import owned
from trainkit._core.processes import ProcessError, alone, gathered

PyTree = Any
Waiting = Callable[[], contextlib.AbstractContextManager[None]]


class Stacked:
    """A stream of `(batch, examples)`; with `count` > 1, batches are stacked on a new first axis.

    With several processes, it ends in all of them when it ends in one. A source with `draw` never
    ends, and needs no agreement. The position is that after the last batch of a stack. The context
    manager `waiting()` is active while the source is waited for.

    >>> next(Stacked(iter([np.zeros(3), np.ones(3)]), 2))[0].shape
    (2, 3)
    """

    def __init__(self, stream: Any, count: int = 1, waiting: Waiting = contextlib.nullcontext):
        self._stream, self._count, self._waiting = iter(stream), count, waiting
        self._may_end = not (alone() or hasattr(stream, "draw"))

    @property
    def position(self) -> Any:
        """The position of the source; `None` if it has none."""
        return getattr(self._stream, "position", None)

    def restore(self, position: Any) -> None:
        """Moves the source to a saved position."""
        self._stream.restore(position)

    def __iter__(self) -> Stacked:
        return self

    def __next__(self) -> tuple[PyTree, int]:
        with self._waiting():
            # Copied, because the source may reuse its arrays; a single batch is copied by `place`.
            keep = owned if self._count > 1 else lambda batch: batch
            batches = [keep(self._draw()) for _ in range(self._count)]
        # Every process draws the same number of examples.
        examples = (
            sum(validation.leading_size(batch, "batch") for batch in batches) * jax.process_count()
        )
        if self._count == 1:
            return batches[0], examples
        return jax.tree.map(lambda *leaves: np.stack(leaves), *batches), examples

    def _draw(self) -> PyTree:
        if not self._may_end:
            return next(self._stream)
        batch = next(self._stream, None)
        sizes = gathered(None if batch is None else validation.leading_size(batch, "batch"))
        if None in sizes:
            raise StopIteration
        if len(set(sizes)) > 1:
            raise ProcessError(
                f"the processes have drawn {', '.join(map(str, sizes))} examples; every process "
                "must draw the same number for a batch."
            )
        return batch
