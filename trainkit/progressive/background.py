"""Work done ahead in the background, so that the loop does not wait for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from trainkit._core.identity import digest
from trainkit._core.versions import versions


def keep_compiled(folder: str | os.PathLike, *, enabled: bool = True) -> Path | None:
    """Keeps compiled programs in a folder, for every later process that compiles the same.

    JAX's own persistent compilation cache, for programs that take more than a fifth of a second;
    one that is set already (JAX_COMPILATION_CACHE_DIR) stays. A run that is resumed, or repeated
    with another seed, then compiles nothing. What is kept is run unseen: programs lie in a
    subfolder by versions and flags that nobody else can write into.

    Args:
      folder: where they lie.
      enabled: false to keep and use none; to check what is kept against a fresh compilation, set
        JAX_COMPILATION_CACHE_CHECK_CONTENTS=1.

    Raises:
      PermissionError: the folder is somebody else's, or others may write into it.
    """
    config: Any = jax.config  # its options are attributes that no type checker sees
    if not enabled:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    if not config.jax_compilation_cache_dir:
        flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
        own = Path(folder).absolute() / digest(f"{sorted(versions().items())} {flags}")
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = own.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            raise PermissionError(
                f"{own} is somebody else's, or others may write into it: compiled programs from "
                "there could be anything. Delete it, or keep them in a folder of your own."
            )
        jax.config.update("jax_compilation_cache_dir", str(own))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return Path(config.jax_compilation_cache_dir)


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
