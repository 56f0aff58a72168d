"""An endless iterator of batches from data in memory; its position is two integers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from trainkit._core import validation
from trainkit._core.buffers import as_arrays
from trainkit._core.identity import digest
from trainkit._core.paths import named_leaves

PyTree = Any


class Position(NamedTuple):
    """The position of a sampler: all that a checkpoint needs.

    Attributes:
      epoch: the number of completed passes over the data.
      offset: the number of examples drawn in the current pass, over all processes.
    """

    epoch: int = 0
    offset: int = 0


class Sampler:
    """An endless iterator of batches that can be resumed at any position.

    The order of epoch e is a pure function of (seed, e), and a batch is one of (seed, position).
    So there is no generator state to save, and restoring costs nothing. An epoch has
    ⌊n / batch_size⌋ batches; the remaining examples take part in the next epoch's shuffle.

    Args:
      data: pytree of arrays with one leading size n, or any object with `len` that returns a batch
        for an int64 array of indices [b] (such as `CharCorpus.windows`).
      batch_size: examples in a global batch, over all processes.
      seed: integer seed of the order.
      shuffle: whether to shuffle each epoch; otherwise the order is that of the data.
      process_index, process_count: the number of this process, and of all; default
        `jax.process_index()` and `jax.process_count()`. Each process draws its contiguous part of
        every global batch, so that all together draw the batch of a single process.

    Raises:
      ValueError: leaves of different leading size; a batch larger than the data or not divisible
        by the number of processes.

    >>> sampler = Sampler({"x": np.arange(6)}, batch_size=2, seed=1)
    >>> first = next(sampler)["x"]
    >>> place = sampler.position
    >>> place
    Position(epoch=0, offset=2)
    >>> second = next(sampler)["x"]
    >>> sampler.restore(place)
    >>> bool((next(sampler)["x"] == second).all())
    True
    """

    def __init__(
        self,
        data: PyTree,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        process_index: int | None = None,
        process_count: int | None = None,
    ):
        # A user-defined data set only has to support indexing by an array.
        self._user_defined = hasattr(data, "__getitem__") and not isinstance(
            data, dict | list | tuple | np.ndarray | jax.Array
        )
        self.size = _size_of(data, self._user_defined)
        index = jax.process_index() if process_index is None else process_index
        count = jax.process_count() if process_count is None else process_count
        validation.integer("process_count", count)
        validation.integer("process_index", index, least=0)
        if index >= count:
            raise ValueError(
                f"process_index must be below process_count={count}, not {index}; it counts from 0."
            )
        validation.integer("batch_size", batch_size, hint="it counts examples")
        if batch_size > self.size:
            raise ValueError(
                f"batch_size={batch_size} must be from 1 to the number of examples, {self.size}."
            )
        if batch_size % count:
            raise ValueError(
                f"batch_size={batch_size} is not divisible by the {count} processes; use "
                f"{math.ceil(batch_size / count) * count}."
            )
        validation.integer("seed", seed, least=0, below=2**63)
        validation.flag("shuffle", shuffle)
        self.data, self.batch_size, self.seed, self.shuffle = data, batch_size, seed, shuffle
        self._share = batch_size // count
        self._first = index * self._share
        self._position = Position()
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def position(self) -> Position:
        """The position after the last batch that was drawn."""
        return self._position

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return self.size // self.batch_size

    def restore(self, position: Position | tuple[int, int]) -> None:
        """Moves to a saved position.

        Raises:
          TypeError: not a pair of integers.
          ValueError: not a position of this data, for example because its size has changed.
        """
        pair = isinstance(position, tuple | list) and len(position) == 2
        if not pair or not all(
            isinstance(v, int | np.integer) and not isinstance(v, bool) for v in position
        ):
            raise TypeError(
                f"position must be a pair of integers (epoch, offset), not {position!r}: pass a "
                "value of sampler.position."
            )
        epoch, offset = (int(value) for value in position)
        if epoch < 0 or not 0 <= offset <= self.size:
            raise ValueError(
                f"position (epoch={epoch}, offset={offset}) does not exist in a data set of "
                f"{self.size} examples: it was saved with other data. Use the same data, or start "
                "a new run."
            )
        self._position = Position(epoch, offset)

    def fingerprint(self) -> str:
        """A hexadecimal digest of all examples, or of evenly spaced ones if they exceed 256 MB.

        For a user-defined data set, it is the digest of at most a thousand examples.
        """
        if self._user_defined:
            count = 1000
        else:
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.data))
            count = self.size if size <= 2**28 else max(1, 2**28 * self.size // size)
        chosen = np.linspace(0, self.size - 1, min(count, self.size)).astype(np.int64)
        if self._user_defined:
            part = self.data[chosen]
        else:
            part = jax.tree.map(lambda x: x if len(chosen) == self.size else x[chosen], self.data)
        leaves = named_leaves(part).items()
        return digest(" ".join(f"{name} {leaf.dtype} {digest(leaf)}" for name, leaf in leaves))

    def __iter__(self) -> Iterator[PyTree]:
        return self

    def __next__(self) -> PyTree:
        batch, self._position = self.draw(self._position)
        return batch

    def draw(self, position: Position) -> tuple[PyTree, Position]:
        """`(batch, next position)` at a position; a pure function of it."""
        epoch, offset = position
        if offset + self.batch_size > self.size:
            epoch, offset = epoch + 1, 0
        start = offset + self._first
        chosen = self._epoch_order(epoch)[start : start + self._share]
        if self._user_defined:
            batch = as_arrays(self.data[chosen])
        else:
            batch = jax.tree.map(lambda leaf: leaf[chosen], self.data)
        offset += self.batch_size
        # After the last batch of an epoch, the position is the start of the next one: "n epochs"
        # are then complete.
        if offset + self.batch_size > self.size:
            epoch, offset = epoch + 1, 0
        return batch, Position(epoch, offset)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(self.seed, epoch, self.size, self.shuffle)
        return self._order[1]


def _size_of(data: PyTree, user_defined: bool) -> int:
    """The number of examples."""
    if not user_defined and not isinstance(data, str | bytes):
        size = validation.leading_size(data, "data")
    elif isinstance(data, str | bytes) or not hasattr(data, "__len__"):
        raise TypeError(
            "data must be arrays of one leading size, or an object with len and indexing by "
            f"arrays, not {data!r:.60}."
        )
    else:
        size = len(data)
    if not size:
        raise ValueError("data must contain examples, but there are 0 examples.")
    return size


def epoch_order(seed: int, epoch: int, size: int, shuffle: bool = True) -> np.ndarray:
    """The order of the examples in an epoch, int64 [size]; a pure function of its arguments."""
    if not shuffle:
        return np.arange(size)
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(size)
