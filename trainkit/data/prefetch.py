"""Prefetching batches to the device, with a position that can be saved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from trainkit._core import validation

PyTree = Any


class Prefetch:
    """An iterator that places the next batches on the device in advance.

    It needs no thread: `put` only starts a copy. Steps are dispatched asynchronously, so reading
    the next batch on the host overlaps with the step on the device.

    `position` is that of the last batch *returned*, not of those in the queue, as a checkpoint
    needs it.

    Args:
      stream: an iterator; its `position` and `restore` are used if it has them.
      put: places one batch on the devices, such as `jax.device_put` with a sharding.
      size: the number of batches in the queue, 0 or more.

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
        validation.integer("size", size, least=0, hint="0 means no prefetching")
        self._stream, self._put, self._size = stream, put, size
        self._queue: deque[tuple[PyTree, Any]] = deque()
        self._position = getattr(stream, "position", None)
        self._ended = False

    @property
    def position(self) -> Any:
        """The position after the last batch returned; `None` if the stream has none."""
        return self._position

    def restore(self, position: Any) -> None:
        """Moves the stream to a saved position, and empties the queue."""
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
