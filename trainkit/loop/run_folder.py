"""The folder of a run: claimed before anything is computed, and never shared or overwritten."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from trainkit._core import validation
from trainkit._core.identity import differences, lasting
from trainkit._core.run_files import (
    CHECKPOINTS,
    CONFIG,
    CSV,
    JSONL,
    LOCK,
    NEW,
    REPORT,
    SUMMARY,
    TENSORBOARD,
    write_whole,
)

# All that a run writes: `overwrite` removes these and nothing else.
OWN = (JSONL, CSV, CSV + NEW, CONFIG + NEW, SUMMARY + NEW, REPORT + NEW, SUMMARY, REPORT, CONFIG)
OWN_FOLDERS = (CHECKPOINTS, TENSORBOARD)
UNFINISHED = {LOCK, CONFIG + NEW}


class OutputError(OSError, ValueError):
    """An output folder that cannot be written, or that holds something else."""


@dataclasses.dataclass
class RunFolder:
    """A folder claimed for one run; use it in a `with`, or `close` it.

    Attributes:
      path: where it is.
      config: the run's configuration, as `lasting` has it.

    >>> import tempfile
    >>> with RunFolder.claim(tempfile.mkdtemp(), {"width": 3}) as folder:
    ...     folder.config
    {'width': 3}
    """

    path: Path
    config: dict[str, Any]
    _lock: IO[str] | None = None

    @classmethod
    def claim(
        cls,
        path: str | os.PathLike,
        config: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        same: bool = True,
    ) -> RunFolder:
        """Makes the folder of a new run, or takes up the run that is there.

        A run with the same configuration goes on where it stopped; with any, where it need not be
        the `same`.

        Raises:
          OutputError: the folder cannot be written, is in use, or holds a run with another
            configuration or files that are not a run's.
        """
        cls.check(path, config, overwrite=overwrite, same=same)
        path, own = Path(path).expanduser(), lasting(config or {}, "config")
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / LOCK).open("a")
        except OSError as error:
            raise _unwritable(path, error.strerror) from error
        _lock(lock, path)
        folder = cls(path, own, lock)
        try:
            if overwrite:
                folder._clear()
            write_whole(path / CONFIG, json.dumps(own, indent=2) + "\n")
        except OSError as error:
            folder.close()
            raise _unwritable(path, error.strerror) from error
        return folder

    @staticmethod
    def check(
        path: str | os.PathLike,
        config: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        same: bool = True,
    ) -> None:
        """Raises what `claim` would, and writes nothing: for before the work begins."""
        validation.path("out", path)
        path, own = Path(path).expanduser(), lasting(config or {}, "config")
        try:
            if path.is_dir():
                _refuse_links(path)
                _check_contents(path, own, overwrite or not same)
                above = path
            else:
                if path.exists():
                    raise OutputError(f"{path} is a file; give another folder as out=.")
                above = next(folder for folder in path.absolute().parents if folder.exists())
        except PermissionError as error:
            raise _unwritable(path, error.strerror) from error
        if not above.is_dir():
            raise _unwritable(path, f"{above} is a file")
        if not os.access(above, os.W_OK | os.X_OK):
            raise _unwritable(path, f"no permission to write in {above}")

    def _clear(self) -> None:
        for name in OWN_FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        os.truncate(self.path / LOCK, 0)
        # What makes it a run's folder comes last: killed before, it can be thrown away once more.
        for name in OWN:
            (self.path / name).unlink(missing_ok=True)

    @property
    def has_saved(self) -> bool:
        """Whether a checkpoint of this run was ever finished."""
        return bool((self.path / LOCK).read_text())

    def saved(self) -> None:
        """Notes that one was; in the lock, which is never taken away."""
        if self._lock is not None and not self.has_saved:
            self._lock.write("A checkpoint was saved.\n")
            self._lock.flush()

    def close(self) -> None:
        """Lets another process have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_links(path: Path) -> None:
    """A run writes, cuts and deletes what is under these names, and only in its own folder."""
    for name in (LOCK, *OWN, *OWN_FOLDERS):
        # What is not whole yet is made anew and never written through a link.
        if not name.endswith(NEW) and (path / name).is_symlink():
            raise OutputError(
                f"{path / name} is a link to somewhere else, which a run would write into; remove "
                "it, or give another folder as out=."
            )


def _check_contents(path: Path, config: dict[str, Any], any_config: bool) -> None:
    names = {entry.name for entry in path.iterdir()}
    if not names - UNFINISHED:
        return
    if CONFIG not in names:
        # Never cleared, not even when asked to: these are somebody's own files.
        raise OutputError(
            f"The output folder {path} holds files that are not a run's "
            f"({', '.join(sorted(names)[:3])}); give an empty or a new one as out=."
        )
    if any_config:
        return
    try:
        found = json.loads((path / CONFIG).read_text())
    except ValueError:
        found = {"(unreadable)": str(path / CONFIG)}
    if lines := differences(found, config):
        raise OutputError(
            f"The output folder {path} already holds a run with another configuration:\n  "
            + "\n  ".join(lines)
            + "\nGive this run a folder of its own as out=, or throw the other away by "
            "overwrite=True. (With the same configuration it would go on where it stopped.)"
        )


def _unwritable(path: Path, why: str | None) -> OutputError:
    return OutputError(f"The output folder {path} cannot be written ({why}); give another as out=.")


def _lock(file: IO[str], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows: there two runs in one folder are the user's to avoid
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OutputError(
            f"Another process is training in {path}; wait for it, stop it, or give another "
            "folder as out=."
        ) from None
    except OSError:
        # Some network file systems have no locks.
        with contextlib.suppress(OSError):
            file.flush()
