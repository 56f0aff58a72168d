"""Compiled programs that are kept for later processes, and are what was written."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import jax

from trainkit._core.identity import digest
from trainkit._core.run_files import remove, write_whole
from trainkit._core.versions import versions

# As JAX calls its files, and what has the digest of one.
PROGRAM, SEAL = "-cache", ".digest"
COMPILED = "/jax/core/compile/backend_compile_duration"


def keep_compiled(folder: str | os.PathLike, *, enabled: bool = True) -> Path | None:
    """Keeps compiled programs in a folder, for every later process that compiles the same.

    JAX's own persistent compilation cache, for programs that take more than a fifth of a second;
    one that is set already (JAX_COMPILATION_CACHE_DIR) stays. A run that is resumed, or repeated
    with another seed, then compiles nothing. What is kept is run unseen: programs lie in a
    subfolder by versions and flags that nobody else can write into, each with a digest beside it.
    One that is not what was written, or that a killed run had not written to its end, is dropped.

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
        drop_damaged(own)
        jax.monitoring.register_event_duration_secs_listener(Sealing(own))
        jax.config.update("jax_compilation_cache_dir", str(own))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return Path(config.jax_compilation_cache_dir)


class Sealing:
    """Told of what JAX does, it gives every program that was kept since its digest.

    Args:
      folder: where the programs lie.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._sealed: dict[str, int] = {}

    def __call__(self, event: str, duration_secs: float, **_: Any) -> None:
        """Takes an event; after a compilation its program has been written."""
        if event != COMPILED:
            return
        # A program without a digest is compiled once more, and nothing worse.
        with contextlib.suppress(OSError):
            for program in self._folder.glob(f"*{PROGRAM}"):
                changed = program.stat().st_mtime_ns
                if self._sealed.get(program.name) != changed:
                    write_whole(_seal_of(program), _digest(program))
                    self._sealed[program.name] = changed


def drop_damaged(folder: Path) -> None:
    """Removes the programs that are not what was written, or have no digest."""
    for program in folder.glob(f"*{PROGRAM}"):
        try:
            kept = _seal_of(program).read_text() == _digest(program)
        except (OSError, ValueError):
            kept = False
        if not kept:
            remove(program)


def _seal_of(program: Path) -> Path:
    return program.with_name(program.name + SEAL)


def _digest(program: Path) -> str:
    return hashlib.blake2b(program.read_bytes(), digest_size=16).hexdigest()
