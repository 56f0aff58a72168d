"""Work in a background thread, so that the training loop does not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Named results, computed in one background thread while training continues.

    XLA compiles without holding Python's lock, so training is not disturbed if a core is free.
    There is one thread, because two compilations at once would slow training down.

    Args:
      enabled: whether to use a thread; otherwise results are computed when they are needed.

    >>> with Background() as background:
    ...     background.start("answer", lambda: 42)
    ...     background.get("answer")
    42
    """

    def __init__(self, enabled: bool = True):
        self.enabled = enabled
        self._pool = ThreadPoolExecutor(1, "trainkit-background") if enabled else None
        self._futures: dict[Hashable, Future] = {}
        self._work: dict[Hashable, Callable[[], Any]] = {}

    def start(self, name: Hashable, work: Callable[[], Any]) -> None:
        """Starts to compute a result, unless it was started before."""
        if name in self._work:
            return
        self._work[name] = work
        if self._pool is not None:
            self._futures[name] = self._pool.submit(work)

    def get(self, name: Hashable) -> Any:
        """The result; waits for it if necessary, and raises the error of its computation."""
        if name not in self._futures:
            self._futures[name] = Future()
            self._futures[name].set_result(self._work[name]())
        return self._futures[name].result()

    def take(self, name: Hashable) -> Any:
        """The result, which is then removed to free its memory."""
        result = self.get(name)
        del self._futures[name], self._work[name]
        return result

    def ready(self, name: Hashable) -> bool:
        """Whether `get` would return at once."""
        return name in self._futures and self._futures[name].done()

    def close(self) -> None:
        """Waits for the running work, and cancels the rest."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
