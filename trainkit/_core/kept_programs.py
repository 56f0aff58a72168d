"""A persistent compilation cache whose files are verified before they are used."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

from trainkit._core.identity import digest
from trainkit._core.run_files import remove, write_whole
from trainkit._core.versions import versions

# The suffix of JAX's cache files, and that of the file with the digest of one.
PROGRAM, DIGEST = "-cache", ".digest"
COMPILED = "/jax/core/compile/backend_compile_duration"


def keep_compiled(folder: str | os.PathLike, *, enabled: bool = True) -> Path | None:
    """Turns on JAX's persistent compilation cache in a folder, and returns the folder.

    It keeps programs that take more than 0.2 seconds to compile, so that a resumed run, or one
    with another seed, compiles nothing. A cache that is already set (JAX_COMPILATION_CACHE_DIR)
    stays. Cached programs are executed without inspection. Therefore they are in a subfolder, by
    versions, flags and processor, that only the owner may write into, each with a digest. Programs
    that are damaged, or left incomplete by a killed run, are removed.

    Args:
      folder: the parent folder of the cache.
      enabled: false to turn JAX's cache off. To compare cached programs with fresh ones, set
        JAX_COMPILATION_CACHE_CHECK_CONTENTS=1.

    Returns:
      The folder in use; `None` if not enabled.

    Raises:
      PermissionError: the folder belongs to another user, or others may write into it.
    """
    config: Any = jax.config  # its options are attributes that no type checker sees
    if not enabled:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    if not config.jax_compilation_cache_dir:
        flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
        made_by = f"{sorted(versions().items())} {flags} {_processor()}"
        own = Path(folder).absolute() / digest(made_by)
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = own.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            raise PermissionError(
                f"{own} belongs to another user, or others may write into it: its compiled "
                "programs cannot be trusted. Delete it, or choose a folder of your own."
            )
        drop_damaged(own)
        jax.monitoring.register_event_duration_secs_listener(DigestWriter(own))
        jax.config.update("jax_compilation_cache_dir", str(own))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return Path(config.jax_compilation_cache_dir)


@functools.cache
def _processor() -> str:
    """What the processor can do, as Linux says it: a program may use instructions others lack."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    said = [x for x in lines if x.startswith(("model name", "flags", "Features", "CPU part"))]
    return f"{platform.machine()} {sorted(set(said))}"


class DigestWriter:
    """A listener to JAX's events that writes a digest for each newly cached program.

    Args:
      folder: the folder of the cached programs.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._written: dict[str, int] = {}

    def __call__(self, event: str, duration_secs: float, **_: Any) -> None:
        """Handles an event; when a compilation ends, its program has been written."""
        if event != COMPILED:
            return
        # Ignored: a program without a digest is only compiled again.
        with contextlib.suppress(OSError):
            for program in self._folder.glob(f"*{PROGRAM}"):
                changed = program.stat().st_mtime_ns
                if self._written.get(program.name) != changed:
                    write_whole(_digest_path(program), _digest(program))
                    self._written[program.name] = changed


def drop_damaged(folder: Path) -> None:
    """Removes programs that do not match their digest, or have none."""
    for program in folder.glob(f"*{PROGRAM}"):
        try:
            kept = _digest_path(program).read_text() == _digest(program)
        except (OSError, ValueError):
            kept = False
        if not kept:
            remove(program)


def _digest_path(program: Path) -> Path:
    return program.with_name(program.name + DIGEST)


def _digest(program: Path) -> str:
    return hashlib.blake2b(program.read_bytes(), digest_size=16).hexdigest()
