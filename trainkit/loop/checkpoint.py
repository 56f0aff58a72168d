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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from trainkit._core import validation
from trainkit._core.processes import alone, by_writer, from_writer
from trainkit.loop.saved.background import Background
from trainkit.loop.saved.failures import attempt
from trainkit.loop.saved.info import described, own_parts
from trainkit.loop.saved.leaves import all_on_host, leaves_by_name
from trainkit.loop.saved.leftovers import DELETED, empty, put_aside, sweep
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


class Checkpointer:
    """Saves and restores the states of one run.

    Reading writes nothing, so that a run can be read while it trains. The first `save` makes the
    folder; only one process (or set of processes that train together) may save into it.

    Args:
      folder: where checkpoints lie, one subfolder a step.
      keep: how many of the latest to keep, 1 or more.
      keep_best: how many of those with the best score to keep beside them.
      mode: "min" or "max", what makes a score the best.
      keep_every, keep_seconds: of every so many steps, of every so many seconds, the first is kept
        for good. The last one that is neither damaged nor `good=False` is never deleted.

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
        keep_every: int | None = None,
        keep_seconds: float | None = None,
    ):
        validation.path("folder", folder)
        self._retention = Retention(keep, keep_best, mode, keep_every, keep_seconds)
        self.folder = Path(folder).absolute()
        self._writer: Any = None
        self._saved: int | None = None  # the last step given to the writer
        self._damaged: set[int] = set()
        self._background = Background()
        for step in steps_in(self.folder):
            with contextlib.suppress(DamagedError):
                self._note(step, step_info(self.folder, step)[0])

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

    def _note(self, step: int, record: dict[str, Any]) -> None:
        self._retention.rate(step, record.get("_score"))
        self._retention.times[step] = record["_time"]
        (self._retention.bad.discard if record["_good"] else self._retention.bad.add)(step)

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
        damaged = self._damaged
        found = newest(self.folder, read, say, steps=steps, damaged=damaged, once=agreed)
        self._retention.bad |= damaged
        return found

    # -- writing -------------------------------------------------------------------------------

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        info: dict[str, Any] | None = None,
        score: float | None = None,
        good: bool = True,
    ) -> None:
        """Saves a state; returns once it has been copied to the host, and writes meanwhile.

        All else (Orbax's own copies and files, digests, deleting what is not kept) is done by a
        thread; only a save that follows before it has ended waits for it.

        Args:
          step: its number, larger than that of every checkpoint so far.
          state: pytree of arrays and random keys.
          info: what JSON can hold; the versions of Python and packages are added.
          score: of this state, for `keep_best` and `best`; NaN is never the best.
          good: whether a run could go on from it; the last good one is never deleted.
        """
        check_save(step, state, info, score)
        if self.latest is not None and step <= self.latest:
            raise CheckpointError(
                f"There is a checkpoint of step {self.latest} in {self.folder}; one of step "
                f"{step} would not come after it. Restore before going on, or use another folder."
            )
        leaves = leaves_by_name(state)
        arrays = all_on_host(leaves)
        record = {
            **(info or {}),
            "_step": step,
            "_good": good,
            **described(leaves, arrays, state),
        }
        if score is not None and math.isfinite(score):
            record["_score"] = float(score)
        self.wait()
        self._note(step, record)
        work = lambda: self._write(lambda: self._save(step, arrays, record))
        if jax.process_count() == 1:
            self._background.start(work)
        else:
            work()  # processes wait for each other in it, which they have to do in one order
        self._saved = step

    def _save(self, step: int, arrays: dict[str, Any], record: dict[str, Any]) -> None:
        self._open()
        empty(self.folder)
        import orbax.checkpoint as ocp

        from trainkit.loop.saved.info_handler import InfoSave

        # Orbax refuses arrays of size 0; their shape says everything about them.
        arrays = {name: leaf for name, leaf in arrays.items() if leaf.size}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            info=InfoSave(record, {name: own_parts(leaf) for name, leaf in arrays.items()}),
        )
        self._writer.save(step, args=args)

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

        by_writer(lambda: put_aside(self.folder, self._damaged))
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

    def sweep(self) -> None:
        """Removes what a killed run left half written or half deleted; for who may save here."""
        sweep(self.folder)

    def wait(self) -> None:
        """Returns once everything is on disk; raises what went wrong in writing."""
        self._background.wait()
        if self._writer is not None:
            self._write(self._writer.wait_until_finished)

    def close(self) -> None:
        """Waits and lets go of the folder."""
        try:
            self._background.wait()
        finally:
            if self._writer is not None:
                writer, self._writer = self._writer, None
                self._write(writer.close)
                empty(self.folder)

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
