"""Communication between the processes of a run. With a single process it costs nothing.

Like collectives, these functions must be called by every process, in the same order.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.identity import digest
from trainkit._core.paths import named_leaves

T = TypeVar("T")
# Words in the errors of collectives when another process has ended.
_DEATH = ("Gloo", "Connection closed by peer", "Connection reset by peer", "heartbeat", "NCCL")
LAUNCHED = "TRAINKIT_LAUNCHED"  # set by `trainkit launch`: the number of processes
_SHORT = 252  # bytes in the first message


class ProcessError(ValueError):
    """Another process has failed, or the processes differ."""


def alone() -> bool:
    """Whether there is only one process."""
    return jax.process_count() == 1


def check_joined() -> None:
    """Raises ProcessError in a launched process that has not joined the others."""
    count = os.environ.get(LAUNCHED)
    if count is not None and alone() and int(count) > 1:
        raise ProcessError(
            f"this is one of {count} processes started by `trainkit launch`, but it has not joined "
            "the others: call trainkit.distributed.initialize() at the start of the script, before "
            "anything uses JAX's devices."
        )


def end_together() -> None:
    """Makes an uncaught error end this process at once; the others then fail and end too.

    By default, JAX waits at exit for the other processes, which wait in a collective for this one.
    """
    if not alone() and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _die


def _die(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    count, index = jax.process_count(), jax.process_index()
    if why := explain(error):
        print(f"Process {index} of {count} ends: {why}", file=sys.stderr)
    else:
        traceback.print_exception(kind, error, where)
        print(f"Process {index} of {count} ends by this error.", file=sys.stderr)
    leave(130 if isinstance(error, KeyboardInterrupt) else 1)


def leave(status: int) -> None:
    """Ends this process at once, without waiting for the others; they then end too."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def explain(error: BaseException) -> str | None:
    """The message of an error caused by another process; `None` for an error of this one."""
    if isinstance(error, ProcessError):
        return str(error)
    if any(word in str(error) for word in _DEATH):
        return "another process of this run has ended; its own last lines say why."
    return None


def is_writer() -> bool:
    """Whether this is the process (number 0) that writes logs, reports and messages."""
    return jax.process_index() == 0


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in their order; the value must be JSON.

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
        # Powers of two, because each length compiles a program.
        texts = _all_gather(_padded(text, 1 << longest.bit_length()))
    return [json.loads(row[:n].tobytes()) for row, n in zip(texts, sizes, strict=True)]


def from_writer(value: T) -> T:
    """The value of process 0; it must be JSON."""
    return gathered(value)[0]


def same(values: Mapping[str, Any], hint: str) -> None:
    """Raises ProcessError unless the values are the same in every process.

    Args:
      values: name -> JSON value.
      hint: how to fix a difference.

    Raises:
      ProcessError: in every process; the message names the value.
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
    """Raises ProcessError unless all uncommitted arrays are the same in every process."""
    if alone():
        return
    fresh = {
        f"{what}/{name}": leaf
        for name, leaf in named_leaves(tree).items()
        if not getattr(leaf, "committed", False)
    }
    same({name: digests(leaf) for name, leaf in fresh.items()}, hint)


def digests(leaf: Any) -> str:
    """The dtype, shape and digest of an array or a random key, as text."""
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return f"{array.dtype}{list(array.shape)} {digest(array)[:8]}"


def in_step(items: Iterable[T], what: str) -> Iterator[T]:
    """The items; raises ProcessError unless every process has the same number of them."""
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
                "every process the same number."
            )
        yield item


def together(work: Callable[[], T], otherwise: type[Exception] = ProcessError) -> T:
    """The result of `work`, once it has succeeded in every process.

    Raises:
      Exception: the error of `work` here, or `otherwise` if it failed only in another process.
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
    """Runs `work` in process 0; the others wait for it, and fail if it fails."""
    together(work if is_writer() else lambda: None)


def _all_gather(row: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(row))


def _padded(text: bytes, size: int) -> np.ndarray:
    return np.frombuffer(text.ljust(size, b" "), np.uint8)
