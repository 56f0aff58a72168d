"""Looking ahead in a stream of batches, without losing the place in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from trainkit._core import validation

PyTree = Any


class Prefetch:
    """A stream that has its next batches on the device before they are asked for.

    The queue is filled from the caller's own thread: `put` only starts a copy, and gathering the
    next batch on the host overlaps with the step that the device is still computing, because
    steps are dispatched asynchronously. A thread would add nothing but a way to hang.

    `position` is that of the last batch *handed out*, never of those waiting: it is what a
    checkpoint has to hold.

    Args:
      stream: an iterator; where it has `position` and `restore`, so has this.
      put: places one batch on the devices (`jax.device_put` with a sharding, say).
      size: how many batches to hold ready, 0 or more.

    >>> from trainkit.data import Sampler
    >>> import numpy as np
    >>> stream = Prefetch(Sampler(np.arange(8), 2, shuffle=False), lambda batch: batch, size=3)
    >>> next(stream), stream.position
    (array([0, 1]), Position(epoch=0, offset=2))
    """

    def __init__(self, stream: Any, put: Callable[[PyTree], PyTree], size: int = 2):
        if not hasattr(stream, "__next__"):
            raise TypeError(f"stream must be an iterator, such as a Sampler, not {stream!r:.60}.")
        validation.function("put", put, "of a batch, such as jax.device_put")
        validation.integer("size", size, least=0, hint="0 is no looking ahead")
        self._stream, self._put, self._size = stream, put, size
        self._queue: deque[tuple[PyTree, Any]] = deque()
        self._position = getattr(stream, "position", None)
        self._ended = False

    @property
    def position(self) -> Any:
        """The position after the last batch handed out; `None` where the stream has none."""
        return self._position

    def restore(self, position: Any) -> None:
        """Goes to a position saved before, and forgets what was read ahead."""
        self._stream.restore(position)
        self._position = self._stream.position
        self._queue.clear()
        self._ended = False

    def __iter__(self) -> Prefetch:
        return self

    def __next__(self) -> PyTree:
        while len(self._queue) < max(self._size, 1) and not self._ended:
            try:
                batch = self._put(next(self._stream))
            except StopIteration:
                self._ended = True
            else:
                self._queue.append((batch, getattr(self._stream, "position", None)))
        if not self._queue:
            self._position = getattr(self._stream, "position", None)
            raise StopIteration
        batch, self._position = self._queue.popleft()
        return batch
