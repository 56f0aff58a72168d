"""Work done ahead in the background, so that the loop does not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Things that are made in one background thread while training goes on.

    XLA compiles without Python's lock, so on a machine with a core to spare the present stage
    trains on undisturbed. One thread, because two compilations at a time would be felt.

    Args:
      enabled: whether to work ahead; otherwise everything is made when it is asked for.

    >>> with Background() as background:
    ...     background.start("answer", lambda: 42)
    ...     background.get("answer")
    42
    """

    def __init__(self, enabled: bool = True):
        self.enabled = enabled
        self._pool = ThreadPoolExecutor(1, "trainkit-background") if enabled else None
        self._made: dict[Hashable, Future] = {}
        self._work: dict[Hashable, Callable[[], Any]] = {}

    def start(self, name: Hashable, work: Callable[[], Any]) -> None:
        """Begins to make something, unless it is made or being made already."""
        if name in self._work:
            return
        self._work[name] = work
        if self._pool is not None:
            self._made[name] = self._pool.submit(work)

    def get(self, name: Hashable) -> Any:
        """What was made, waiting for it if need be; an error in making it is raised here."""
        if name not in self._made:
            self._made[name] = Future()
            self._made[name].set_result(self._work[name]())
        return self._made[name].result()

    def take(self, name: Hashable) -> Any:
        """What was made, which is then forgotten: it may be large, or hold on to what is."""
        made = self.get(name)
        del self._made[name], self._work[name]
        return made

    def ready(self, name: Hashable) -> bool:
        """Whether `get` would return at once."""
        return name in self._made and self._made[name].done()

    def close(self) -> None:
        """Waits for what is under way and drops what has not begun."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
