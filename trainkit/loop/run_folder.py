"""The folder of a run: claimed before anything is computed, and never shared or overwritten."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from trainkit._core import validation
from trainkit._core.identity import differences, lasting
from trainkit._core.processes import is_writer, together
from trainkit._core.run_files import (
    CHECKPOINTS,
    CONFIG,
    CSV,
    DAMAGED,
    ID,
    JSONL,
    LOCK,
    NEW,
    REPORT,
    SUMMARY,
    TENSORBOARD,
    remove,
    write_whole,
)
from trainkit.loop.saved.step import DamagedError, step_info, steps_in

# All that a run writes: `overwrite` removes these and nothing else.
WHOLE = (JSONL, CSV, SUMMARY, REPORT, ID, CONFIG)
OWN = (JSONL + DAMAGED, *(name + NEW for name in WHOLE), *WHOLE)
OWN_FOLDERS = (CHECKPOINTS, TENSORBOARD)
UNFINISHED = {LOCK, CONFIG + NEW}


class OutputError(OSError, ValueError):
    """An output folder that cannot be written, or that holds something else."""


@dataclasses.dataclass
class RunFolder:
    """A folder claimed for one run; use it in a `with`, or `close` it.

    Of several processes one claims it, for all.

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
    _lock: IO[bytes] | None = None

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
        own = lasting(config or {}, "config")

        def claimed() -> RunFolder:
            folder = Path(path).expanduser()
            if not is_writer():
                return cls(folder, own)
            _check(folder, own, overwrite or not same)
            return cls._claim(folder, own, overwrite)

        return together(claimed, OutputError)

    @classmethod
    def _claim(cls, path: Path, own: dict[str, Any], overwrite: bool) -> RunFolder:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _open_lock(path / LOCK)
        except OSError as error:
            raise _unwritable(path, error) from error
        _lock(lock, path)
        folder = cls(path, own, lock)
        try:
            if overwrite:
                folder._clear()
            write_whole(path / CONFIG, json.dumps(own, indent=2) + "\n")
        except OSError as error:
            folder.close()
            raise _unwritable(path, error) from error
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
        own = lasting(config or {}, "config")

        def check() -> None:
            if is_writer():
                _check(Path(path).expanduser(), own, overwrite or not same)

        together(check, OutputError)

    def _clear(self) -> None:
        for name in OWN_FOLDERS:
            remove(self.path / name)
        os.truncate(self.path / LOCK, 0)
        # What makes it a run's folder comes last: killed before, it can be thrown away once more.
        for name in OWN:
            remove(self.path / name)

    @property
    def has_saved(self) -> bool:
        """Whether a checkpoint of this run was ever finished."""
        return (self.path / LOCK).stat().st_size > 0

    def saved(self) -> None:
        """Notes that one was; in the lock, which is never taken away."""
        if self._lock is None or self.has_saved:
            return
        try:
            self._lock.write(b"A checkpoint was saved.\n")
        except OSError as error:
            why = f"{error.strerror}; the run ends here and can go on once it can be written"
            raise OSError(error.errno, why, str(self.path / LOCK)) from error

    def close(self) -> None:
        """Lets another process have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(path: Path, own: dict[str, Any], any_config: bool) -> None:
    try:
        if path.is_dir():
            _check_contents(path, own, any_config)
            above = path
        else:
            if path.exists():
                raise OutputError(f"{path} is a file; give another folder as out=.")
            above = next(folder for folder in path.absolute().parents if folder.exists())
    except PermissionError as error:
        raise _unwritable(path, error) from error
    if not above.is_dir():
        raise _unwritable(path, f"{above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _unwritable(path, f"no permission to write in {above}")


def _check_contents(path: Path, config: dict[str, Any], any_config: bool) -> None:
    names = {entry.name for entry in path.iterdir()}
    for name in (LOCK, *OWN_FOLDERS):
        if (path / name).is_symlink():
            raise OutputError(
                f"{path / name} is a link, and nothing is written through one: move what it leads "
                "to here, or give an output folder on the other disk as out=."
            )
    if not names - UNFINISHED:
        return
    found = _config_of(path)
    if found is None and CONFIG not in names:
        # Never cleared, not even when asked to: these are somebody's own files.
        raise OutputError(
            f"The output folder {path} holds files that are not a run's "
            f"({', '.join(sorted(names)[:3])}); give an empty or a new one as out=."
        )
    if any_config:
        return
    there = {"(unreadable)": str(path / CONFIG)} if found is None else found
    if lines := differences(there, config):
        raise OutputError(
            f"The output folder {path} already holds a run with another configuration:\n  "
            + "\n  ".join(lines)
            + "\nGive this run a folder of its own as out=, throw the other away by "
            'overwrite=True, or go on with these by resume="new hyperparameters", if they change '
            "no shapes and no update rule. (With the same configuration it would go on where it "
            "stopped.)"
        )


def _config_of(path: Path) -> dict[str, Any] | None:
    """That of the run in a folder: as its newest checkpoint that is whole says, or else its file.

    The file is for people; what it says can be damaged, what a checkpoint says has a seal.
    """
    for step in reversed(steps_in(path / CHECKPOINTS)):
        with contextlib.suppress(DamagedError, KeyError):
            return dict(step_info(path / CHECKPOINTS, step)[0]["config"])
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, ValueError):
        return dict(json.loads((path / CONFIG).read_text(encoding="utf-8")))
    return None


def _open_lock(path: Path) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0)


def _unwritable(path: Path, why: OSError | str) -> OutputError:
    if isinstance(why, OSError):
        file = why.filename2 or why.filename
        why = f"{file}: {why.strerror}" if file else str(why.strerror)
    return OutputError(f"The output folder {path} cannot be written ({why}); give another as out=.")


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows: there two runs in one folder are the user's to avoid
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A report that looks whether the run is under way has it for an instant.
            time.sleep(0.1)
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
