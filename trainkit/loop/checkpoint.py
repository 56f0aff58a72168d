"""Exact, crash-safe checkpoints on Orbax: asynchronous, atomic, kept by count and by score.

A checkpoint is a state (any pytree of arrays) and an `info` that JSON can hold: the place in the
data, the position in the metrics log, the configuration, a growth history. It is either whole or
not there, whenever the process dies; what was damaged afterwards is found out and passed over.

    checkpoints = Checkpointer("runs/mine/checkpoints", keep=2)
    checkpoints.save(100, state, info={"data": sampler.position}, score=validation_loss)
    state, info = checkpoints.restore(like=step.place(state))
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from trainkit._core import validation
from trainkit._core.processes import alone, by_writer, from_writer, is_writer
from trainkit._core.run_files import remove
from trainkit._core.versions import versions
from trainkit.loop.saved.containers import to_json
from trainkit.loop.saved.failures import attempt
from trainkit.loop.saved.info import own_parts
from trainkit.loop.saved.leaves import is_key, key_kind, leaves_by_name, on_host, paths_by_name
from trainkit.loop.saved.newest import newest
from trainkit.loop.saved.retention import Retention
from trainkit.loop.saved.step import (
    CheckpointError,
    DamagedError,
    read_step,
    step_info,
    steps_in,
)
from trainkit.loop.saved.validation import check_arrays, check_save
from trainkit.loop.transfer.restore import restore

__all__ = ["CheckpointError", "Checkpointer", "DamagedError", "restore", "save"]

PyTree = Any
T = TypeVar("T")
# What is no longer wanted goes here before it is deleted, so that no step is ever half there.
DELETED, DAMAGED = "deleted", "damaged-"
UNFINISHED = "*.orbax-checkpoint-tmp*"


class Checkpointer:
    """Saves and restores the states of one run.

    Reading writes nothing, so that a run can be read while it trains. The first `save` makes the
    folder; only one process (or set of processes that train together) may save into it.

    Args:
      folder: where checkpoints lie, one subfolder a step.
      keep: how many of the latest to keep, 1 or more.
      keep_best: how many of those with the best score to keep beside them.
      mode: "min" or "max", what makes a score the best.

    >>> import tempfile, jax.numpy as jnp
    >>> state = {"w": jnp.arange(3.0), "rng": jax.random.key(7)}
    >>> checkpoints = Checkpointer(tempfile.mkdtemp(), keep=1)
    >>> checkpoints.save(5, state, info={"note": "half way"})
    >>> restored, info = checkpoints.restore(like=state)
    >>> restored["w"], info["note"], checkpoints.steps
    (Array([0., 1., 2.], dtype=float32), 'half way', [5])
    >>> checkpoints.close()
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        keep: int = 2,
        keep_best: int = 1,
        mode: str = "min",
    ):
        validation.path("folder", folder)
        validation.integer("keep", keep, hint="without the latest a run could not go on")
        validation.integer("keep_best", keep_best, least=0)
        validation.choice("mode", mode, ("min", "max"))
        self._retention = Retention(keep, keep_best, mode)
        self.folder = Path(folder).absolute()
        self._writer: Any = None
        self._saved: int | None = None  # the last step given to the writer
        self._damaged: set[int] = set()
        for step in steps_in(self.folder):
            with contextlib.suppress(DamagedError):
                self.rate(step, step_info(self.folder, step)[0].get("_score"))

    # -- what there is -------------------------------------------------------------------------

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order, without those found to be damaged."""
        found = {*steps_in(self.folder), *([] if self._saved is None else [self._saved])}
        return sorted(found - self._damaged)

    @property
    def latest(self) -> int | None:
        """The last step that has a checkpoint, or `None`."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """The step whose checkpoint has the best score, or `None` where none has one."""
        ranked = self._retention.ranked(self.steps)
        return ranked[0] if ranked else None

    def rate(self, step: int, score: float | None) -> None:
        """Gives a step its score, for `keep_best` and `best`; NaN is never the best."""
        self._retention.rate(step, score)

    # -- reading -------------------------------------------------------------------------------

    def info(self, step: int | None = None) -> dict[str, Any]:
        """What was saved beside the state of a step (by default the latest that is whole)."""
        return self._read(step, lambda step: step_info(self.folder, step)[0])

    def restore(self, like: PyTree, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
        """The state of a step (by default the latest that is whole) and its info.

        Args:
          like: a state of the same structure, shapes and dtypes (arrays or
            `jax.ShapeDtypeStruct`s); the restored arrays get its shardings.
          step: which checkpoint.

        Raises:
          CheckpointError: there is none, or it differs from `like`; the leaves are named.
          DamagedError: the one asked for, or every one, is not what was written. Without a
            `step`, a damaged one is passed over with a warning.
        """
        check_arrays("like", like)
        return self._read(step, lambda step: read_step(self.folder, step, like), agreed=True)

    def _read(self, step: int | None, read: Callable[[int], T], *, agreed: bool = False) -> T:
        self.wait()
        if step is not None:
            validation.integer("step", step, least=0)
        if step is None:
            return self.newest(read, warnings.warn, agreed=agreed and not alone())
        if step not in (steps := self.steps):
            raise CheckpointError(
                f"There is no checkpoint of step {step} in {self.folder}; there are {steps}."
            )
        return read(step)

    def newest(
        self, read: Callable[[int], T], say: Callable[[str], None], *, agreed: bool = False
    ) -> T:
        """What `read` makes of the newest step that is whole; `say` is told of the others.

        Where it is `agreed`, all processes read the steps that the writer sees.
        """
        steps = (lambda: from_writer(self.steps)) if agreed else (lambda: self.steps)
        return newest(self.folder, read, say, steps=steps, damaged=self._damaged, once=agreed)

    # -- writing -------------------------------------------------------------------------------

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        info: dict[str, Any] | None = None,
        score: float | None = None,
    ) -> None:
        """Saves a state; returns once it has been copied to the host, and writes meanwhile.

        Args:
          step: its number, larger than that of every checkpoint so far.
          state: pytree of arrays and random keys.
          info: what JSON can hold; the versions of Python and packages are added.
          score: of this state, for `keep_best` and `best`; NaN is never the best.
        """
        check_save(step, state, info, score)
        if self.latest is not None and step <= self.latest:
            raise CheckpointError(
                f"There is a checkpoint of step {self.latest} in {self.folder}; one of step "
                f"{step} would not come after it. Restore before going on, or use another folder."
            )
        self._open()
        threading.Thread(target=self._delete).start()
        import orbax.checkpoint as ocp

        from trainkit.loop.saved.info_handler import InfoSave

        leaves = leaves_by_name(state)
        arrays = {name: on_host(leaf) for name, leaf in leaves.items()}
        self.rate(step, score)
        record = {
            **(info or {}),
            "_step": step,
            "_time": time.time(),
            "_processes": jax.process_count(),
            "_versions": versions(),
            "_leaves": {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in arrays.items()},
            "_ways": {name: to_json(path) for name, path in paths_by_name(state).items()},
            "_keys": {name: key_kind(leaf) for name, leaf in leaves.items() if is_key(leaf)},
        }
        if score is not None and math.isfinite(score):
            record["_score"] = float(score)
        # Orbax refuses arrays of size 0; their shape says everything about them.
        arrays = {name: leaf for name, leaf in arrays.items() if leaf.size}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            info=InfoSave(record, {name: own_parts(leaf) for name, leaf in arrays.items()}),
        )
        self._write(lambda: self._writer.save(step, args=args))
        self._saved = step

    def _write(self, work: Callable[[], T]) -> T:
        return attempt(
            work,
            lambda why: CheckpointError(
                f"A checkpoint could not be written into {self.folder}: {why}. Those before it are "
                "whole: once it can be written, the run goes on from the last of them."
            ),
        )

    def _open(self) -> None:
        """Makes what writes, once; imports Orbax, which costs as much time as JAX itself."""
        if self._writer is not None:
            return
        import orbax.checkpoint as ocp

        by_writer(self._put_aside)
        self._damaged = set()
        self._writer = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "info"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._retention,
                todelete_subdir=DELETED,
                lightweight_initialize=True,
            ),
        )

    def _put_aside(self) -> None:
        self.sweep()
        for step in self._damaged & set(steps_in(self.folder)):
            remove(self.folder / f"{DAMAGED}{step}")
            (self.folder / str(step)).rename(self.folder / f"{DAMAGED}{step}")

    def sweep(self) -> None:
        """Removes what a killed run left half written or half deleted; for who may save here."""
        if is_writer():
            for left in self.folder.glob(UNFINISHED):
                remove(left)
            self._delete()

    def _delete(self) -> None:
        deleted = self.folder / DELETED
        if deleted.is_symlink():  # whoever put it there, what it leads to is not ours to delete
            remove(deleted)
        # What is in it, not the folder itself, into which a step may just be moved.
        for step in deleted.glob("*") if is_writer() else ():
            remove(step)

    def wait(self) -> None:
        """Returns once everything is on disk; raises what went wrong in writing."""
        if self._writer is not None:
            self._write(self._writer.wait_until_finished)

    def close(self) -> None:
        """Waits and lets go of the folder."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._write(writer.close)
            self._delete()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        # To close is to wait for processes that, after an error in this one, wait for it.
        if error is None or alone():
            self.close()


def save(folder: str | os.PathLike, state: PyTree, *, info: dict[str, Any] | None = None) -> None:
    """Saves one state into a new folder, and returns once it is on disk."""
    with Checkpointer(folder) as checkpoints:
        checkpoints.save(0, state, info=info)
