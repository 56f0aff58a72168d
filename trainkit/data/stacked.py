"""Batches with the number of examples in them, several stacked for one call of a step."""

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
    """A stream of `(batch, examples)`; with `count` > 1, that many batches on a new first axis.

    In several processes it ends for all of them where it ends for one. A source that can be asked
    for the batch of any position (`draw`) never ends, and is not asked about.

    Its position is that after the last batch of a stack, so that a stack is drawn whole. What
    `waiting` gives is entered for as long as the stream below is waited for.

    >>> next(Stacked(iter([np.zeros(3), np.ones(3)]), 2))[0].shape
    (2, 3)
    """

    def __init__(self, stream: Any, count: int = 1, waiting: Waiting = contextlib.nullcontext):
        self._stream, self._count, self._waiting = iter(stream), count, waiting
        self._may_end = not (alone() or hasattr(stream, "draw"))

    @property
    def position(self) -> Any:
        """The place of the stream below; `None` where it has none."""
        return getattr(self._stream, "position", None)

    def restore(self, position: Any) -> None:
        """Goes to a position saved before."""
        self._stream.restore(position)

    def __iter__(self) -> Stacked:
        return self

    def __next__(self) -> tuple[PyTree, int]:
        with self._waiting():
            # The source may fill the same arrays again; one alone is copied when it is placed.
            keep = owned if self._count > 1 else lambda batch: batch
            batches = [keep(self._draw()) for _ in range(self._count)]
        # Every process draws as many examples as this one.
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
                "must give as many of a batch."
            )
        return batch
