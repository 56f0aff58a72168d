"""Batches from what others make (loaders, data sets, lists, generators), with a place in them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from trainkit._core.buffers import as_arrays

PyTree = Any
ENDLESS = 2**48  # the length that some libraries say of what never ends


class Place(NamedTuple):
    """Where a loader is.

    Attributes:
      epoch: passes that lie behind.
      offset: batches taken of the present one, where its length is known.
      batches: the same in any case.
      state: the loader's own, as JSON has it.
    """

    epoch: int = 0
    offset: int = 0
    batches: int = 0
    state: Any = None


class Loader:
    """A stream over anything that gives batches when it is iterated over.

    What can be iterated over again is, pass after pass, and is told the pass where it has
    `set_epoch`. To go on at a place, the loader's own state is used, of its iterator or of itself
    (`get_state` and `set_state`, or `state_dict` and `load_state_dict`). Where there is none, the
    batches before are drawn and thrown away.

    Args:
      source: gives batches.
      passes: after which it ends; by default none, but an iterator has one.
      stateful: whether its position needs the loader's own state.

    >>> loader = Loader([np.zeros(2), np.ones(2)])
    >>> first, second, third = next(loader), next(loader), next(loader)
    >>> loader.position
    Place(epoch=1, offset=1, batches=1, state=None)
    """

    def __init__(
        self, source: Iterable[PyTree], *, passes: int | None = None, stateful: bool = True
    ):
        self.once = hasattr(source, "__next__")
        self._source, self._passes, self._stateful = source, passes, stateful or self.once
        self._length = None if self.once else _length(source)
        self.size = self._length or 1
        self._iterator: Iterator[PyTree] | None = None
        self._ahead: list[PyTree] = []
        self._epoch = self._batches = 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a pass, where that is known."""
        if self._length is None:
            raise AttributeError("the length of a pass is not known")
        return self._length

    def peek(self) -> PyTree:
        """The batch that comes next; `None` at the end."""
        try:
            self._ahead = self._ahead or [self._draw()]
        except StopIteration:
            return None
        return self._ahead[0]

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> PyTree:
        batch = self._ahead.pop() if self._ahead else self._draw()
        self._batches += 1
        return batch

    def _draw(self) -> PyTree:
        while self._passes is None or self._epoch < self._passes:
            if self._iterator is None:
                self._iterator = self._begin()
            try:
                return as_arrays(next(self._iterator))
            except StopIteration:
                if self.once or not self._batches:
                    raise
                self._iterator, self._batches = None, 0
                self._epoch += 1
        raise StopIteration

    def _begin(self, state: Any = None) -> Iterator[PyTree]:
        if hasattr(self._source, "set_epoch"):
            self._source.set_epoch(self._epoch)
        if state is not None and (own := _own(self._source)):
            getattr(self._source, own[1])(decoded(state))
            return iter(self._source)
        iterator = iter(self._source)
        if state is not None and (own := _own(iterator)):
            getattr(iterator, own[1])(decoded(state))
        return iterator

    @property
    def position(self) -> Place:
        """The place after the last batch that was drawn."""
        state = None
        for holder in (self._source, self._iterator) if self._stateful and self._batches else ():
            if state is None and (own := _own(holder)):
                state = encoded(getattr(holder, own[0])())
        return Place(self._epoch, self._batches if self._length else 0, self._batches, state)

    def restore(self, place: Place) -> None:
        """Goes to a place; an iterator without a state of its own cannot go back, and stays."""
        if self.once and place.state is None:
            while self._batches < place.batches:
                self._skip(self, place)
            return
        self._epoch, self._batches, self._ahead = place.epoch, place.batches, []
        self._iterator = self._begin(place.state) if place.batches else None
        if self._iterator is not None and place.state is None:
            for _ in range(place.batches):
                self._skip(self._iterator, place)

    def _skip(self, batches: Iterator[PyTree], place: Place) -> None:
        try:
            next(batches)
        except StopIteration:
            raise ValueError(
                f"data ends before the {place.batches:,} batches that the run had taken of it: "
                "give the data of then, or start a new run."
            ) from None


def _length(source: Any) -> int | None:
    try:
        length = len(source)
    except TypeError:
        return None
    return length if 0 < length < ENDLESS else None


def _own(holder: Any) -> tuple[str, str] | None:
    """The methods that give and take a state of its own."""
    pairs = (("get_state", "set_state"), ("state_dict", "load_state_dict"))
    return next((p for p in pairs if all(hasattr(holder, name) for name in p)), None)


def encoded(state: Any) -> Any:
    """A loader's state as JSON has it.

    Raises:
      TypeError: it is of something else than numbers, text, bytes and arrays.

    >>> decoded(encoded({"at": (3, b"ab"), 5: np.arange(2)}))
    {'at': (3, b'ab'), 5: array([0, 1])}
    """
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, list):
        return [encoded(item) for item in state]
    if isinstance(state, tuple):
        return {"tuple": [encoded(item) for item in state]}
    if isinstance(state, Mapping):
        return {"dict": [[encoded(key), encoded(item)] for key, item in state.items()]}
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    if hasattr(state, "__array__"):
        array = np.asarray(state)
        kind = "tensor" if type(state).__module__.split(".")[0] == "torch" else "array"
        return {kind: [array.dtype.str, list(array.shape), encoded(array.tobytes())]}
    raise TypeError(
        f"the state of data has {state!r:.60} in it, which cannot be saved: give the loader's "
        "methods for its state other names, to go on by counting batches."
    )


def decoded(saved: Any) -> Any:
    """The inverse of `encoded`."""
    if isinstance(saved, list):
        return [decoded(item) for item in saved]
    if not isinstance(saved, dict):
        return saved
    ((kind, value),) = saved.items()
    if kind == "tuple":
        return tuple(decoded(value))
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in value}
    if kind == "bytes":
        return base64.b64decode(value)
    dtype, shape, content = value
    array = np.frombuffer(decoded(content), dtype).reshape(shape).copy()
    if kind == "tensor":
        import torch

        return torch.from_numpy(array)
    return array
