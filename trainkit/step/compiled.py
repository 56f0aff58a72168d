"""The compiled programs of a step, one for each combination of shapes."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

import jax

PyTree = Any


def signature(tree: PyTree) -> Any:
    """The structure, shapes and dtypes of a tree of arrays, as a key."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((x.shape, x.dtype) for x in leaves)


class Compiled:
    """key -> compiled program. Each is compiled once, also if several threads ask at a time."""

    def __init__(self) -> None:
        self._lowered: dict[Any, jax.stages.Lowered] = {}
        self._programs: dict[Any, concurrent.futures.Future[jax.stages.Compiled]] = {}
        self._lock = threading.Lock()

    def keep(self, key: Any, lowered: jax.stages.Lowered) -> None:
        """Keeps what was lowered already, for a later `get`."""
        if key not in self._programs:
            self._lowered[key] = lowered

    def get(self, key: Any, lower: Callable[[], jax.stages.Lowered]) -> jax.stages.Compiled:
        """The program of this key; compiles it from `lower()` if it is new.

        Raises what `lower` or the compiler raises, and then the next call tries again.
        """
        with self._lock:
            compiling = self._programs.get(key)
            ours = compiling is None
            if compiling is None:
                compiling = self._programs[key] = concurrent.futures.Future()
        if ours:
            try:
                compiling.set_result((self._lowered.pop(key, None) or lower()).compile())
            except BaseException as error:
                del self._programs[key]
                compiling.set_exception(error)
                raise
        return compiling.result()

    def __len__(self) -> int:
        return len(self._programs)
