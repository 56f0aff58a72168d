"""What the processes of one run agree on. A process that is alone asks nobody, at no cost.

Every process calls these at the same place of the program, as it does every step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.identity import digest
from trainkit._core.paths import named_leaves

T = TypeVar("T")
LAUNCHED = "TRAINKIT_LAUNCHED"  # of how many processes one is that `trainkit launch` has started
_SHORT = 252  # bytes that go round at once


class ProcessError(ValueError):
    """What ends this process because of another one, or of a difference between them."""


def alone() -> bool:
    """Whether there is one process only."""
    return jax.process_count() == 1


def check_joined() -> None:
    """Refuses to train alone in a process that was started as one of several."""
    count = os.environ.get(LAUNCHED)
    if count is not None and alone() and int(count) > 1:
        raise ProcessError(
            f"this is one of {count} processes that `trainkit launch` has started, but it knows "
            "of no other: call trainkit.distributed.initialize() in its first lines, before "
            "anything touches JAX's devices."
        )


def is_writer() -> bool:
    """Whether this is the one process that writes logs, reports and messages."""
    return jax.process_index() == 0


def gathered(value: Any) -> list[Any]:
    """What each process gives, in their order; something that JSON can hold.

    >>> gathered({"step": 3})
    [{'step': 3}]
    """
    if alone():
        return [value]
    text = json.dumps(value).encode()
    size = np.array([len(text)], np.uint32).view(np.uint8)
    rows = _all_gather(np.concatenate([size, _padded(text[:_SHORT], _SHORT)]))
    sizes = rows[:, :4].copy().view(np.uint32)[:, 0]
    texts = rows[:, 4:]
    if (longest := int(sizes.max())) > _SHORT:
        # Few lengths, because each is a program of its own.
        texts = _all_gather(_padded(text, 1 << longest.bit_length()))
    return [json.loads(row[:n].tobytes()) for row, n in zip(texts, sizes, strict=True)]


def from_writer(value: T) -> T:
    """What process 0 gives."""
    return gathered(value)[0]


def same(values: Mapping[str, Any], hint: str) -> None:
    """Refuses values that are not the same in every process.

    Args:
      values: name -> something that JSON can hold.
      hint: what to do about it.

    Raises:
      ProcessError: in every process; what differs is named.
    """
    first, *others = gathered(dict(values))
    for number, other in enumerate(others, 1):
        for name in {**first, **other}:
            a, b = (json.dumps(each.get(name)) for each in (first, other))
            if a != b:
                raise ProcessError(
                    f"{name} is {a} in process 0, but {b} in process {number}; {hint}"
                )


def same_leaves(tree: Any, what: str, hint: str) -> None:
    """Refuses a tree whose arrays are not the same in every process; what is placed is trusted."""
    if alone():
        return
    fresh = {
        f"{what}/{name}": leaf
        for name, leaf in named_leaves(tree).items()
        if not getattr(leaf, "committed", False)
    }
    same({name: digests(leaf) for name, leaf in fresh.items()}, hint)


def digests(leaf: Any) -> str:
    """What tells an array, or a random key, from another one."""
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return f"{array.dtype}{list(array.shape)} {digest(array)[:8]}"


def in_step(items: Iterable[T], what: str) -> Iterator[T]:
    """The items, of which every process must have as many."""
    iterator, number = iter(items), 0
    while True:
        item, number = next(iterator, None), number + 1
        there = gathered(item is not None)
        if not any(there):
            return
        if item is None or not all(there):
            lacks = there.index(False)
            raise ProcessError(
                f"process {lacks} has {number - 1} {what}, process {there.index(True)} more; give "
                "every process as many."
            )
        yield item


def together(work: Callable[[], T], otherwise: type[Exception] = ProcessError) -> T:
    """What `work` gives, once it has succeeded in every process.

    Raises:
      Exception: what `work` raised here, or `otherwise` where it failed elsewhere alone.
    """
    if alone():
        return work()
    error: Exception | None = None
    try:
        found = work()
    except Exception as failed:
        error = failed
    texts = gathered(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for number, text in enumerate(texts):
        if text is not None:
            raise otherwise(f"Process {number} of {len(texts)} failed: {text}")
    return found


def by_writer(work: Callable[[], Any]) -> None:
    """Does it in process 0; the others wait for it, and fail where it does."""
    together(work if is_writer() else lambda: None)


def _all_gather(row: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(row))


def _padded(text: bytes, size: int) -> np.ndarray:
    return np.frombuffer(text.ljust(size, b" "), np.uint8)
