"""Exact, crash-safe checkpoints on Orbax: asynchronous, atomic, kept by count and by score.

A checkpoint is a state (any pytree of arrays) and an `info` that JSON can hold: the place in the
data, the position in the metrics log, the configuration, a growth history. It is either whole or
not there, whenever the process dies.

    checkpoints = Checkpointer("runs/mine/checkpoints", keep=2)
    checkpoints.save(100, state, info={"data": sampler.position}, score=validation_loss)
    state, info = checkpoints.restore(like=step.place(state))
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core import validation
from trainkit._core.versions import versions
from trainkit.loop.saved_leaves import (
    data_of,
    from_array,
    is_key,
    key_kind,
    leaves_by_name,
    on_host,
    placed_shape,
)

PyTree = Any


class CheckpointError(ValueError):
    """A checkpoint that is not there, or is of another state than the one asked for."""


class Checkpointer:
    """Saves and restores the states of one run.

    Args:
      folder: where checkpoints lie, one subfolder a step; made if need be.
      keep: how many of the latest to keep, 1 or more.
      keep_best: how many of those with the best score to keep beside them.
      mode: "min" or "max", what makes a score the best.

    >>> import tempfile
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
        validation.integer("keep", keep, hint="without the latest a run could not go on")
        validation.integer("keep_best", keep_best, least=0)
        validation.choice("mode", mode, ("min", "max"))
        # Imported here: it costs as much time as JAX itself, and most uses save nothing.
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._keep, self._keep_best, self._mode = keep, keep_best, mode
        self._scores: dict[int, float] = {}
        self.folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "info"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_Keep(self), cleanup_tmp_directories=True
            ),
        )
        for step in self.steps:
            score = self.info(step).get("_score")
            if score is not None:
                self._scores[step] = score

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """The last step that has a checkpoint, or `None`."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """The step whose checkpoint has the best score, or `None` where none has one."""
        ranked = self._ranked(self.steps)
        return ranked[0] if ranked else None

    def _ranked(self, steps: Sequence[int]) -> list[int]:
        sign = 1 if self._mode == "min" else -1
        scored = [step for step in steps if not math.isnan(self._scores.get(step, math.nan))]
        # Of equals the earlier is the better: it got there first.
        return sorted(scored, key=lambda step: (sign * self._scores[step], step))

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
        if self.latest is not None and step <= self.latest:
            raise CheckpointError(
                f"There is a checkpoint of step {self.latest} in {self.folder}; one of step "
                f"{step} would not come after it. Restore before going on, or use another folder."
            )
        leaves = leaves_by_name(state)
        arrays = {name: on_host(leaf) for name, leaf in leaves.items()}
        if score is not None:
            self._scores[step] = float(score)
        record = {
            **(info or {}),
            "_versions": versions(),
            "_leaves": {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in arrays.items()},
            "_keys": {name: key_kind(leaf) for name, leaf in leaves.items() if is_key(leaf)},
        }
        if score is not None and math.isfinite(score):
            record["_score"] = float(score)
        self._manager.save(
            step,
            args=self._ocp.args.Composite(
                # Orbax refuses arrays of size 0; their shape says everything about them.
                state=self._ocp.args.StandardSave(
                    {name: leaf for name, leaf in arrays.items() if leaf.size}
                ),
                info=self._ocp.args.JsonSave(record),
            ),
        )

    def info(self, step: int | None = None) -> dict[str, Any]:
        """What was saved beside the state of a step (by default the latest)."""
        step = self._existing(step)
        args = self._ocp.args.Composite(info=self._ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["info"]

    def restore(self, like: PyTree, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
        """The state of a step (by default the latest) and its info.

        Args:
          like: a state of the same structure, shapes and dtypes (arrays or
            `jax.ShapeDtypeStruct`s); the restored arrays get its shardings.
          step: which checkpoint.

        Raises:
          CheckpointError: there is none, or it differs from `like`; the leaves are named.
        """
        step = self._existing(step)
        info = self.info(step)
        wanted = leaves_by_name(like)
        self._check_same(step, wanted, info["_leaves"])
        args = {name: placed_shape(leaf) for name, leaf in wanted.items() if data_of(leaf).size}
        arrays = self._manager.restore(
            step, args=self._ocp.args.Composite(state=self._ocp.args.StandardRestore(args))
        )["state"]
        leaves = [
            from_array(arrays[name], leaf, info["_keys"].get(name))
            if name in arrays
            else jnp.zeros(leaf.shape, leaf.dtype)
            for name, leaf in wanted.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), info

    def _check_same(self, step: int, wanted: dict[str, Any], saved: dict[str, Any]) -> None:
        found = {
            name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
            for name, (shape, dtype) in saved.items()
        }
        asked = {name: data_of(leaf) for name, leaf in wanted.items()}
        lines = [
            f"{name}: {a} in the checkpoint, {b} wanted"
            for name, (a, b) in validation.differences(found, asked, dtypes=True).items()
        ]
        if lines:
            more = [f"and {len(lines) - 8} more"] if len(lines) > 8 else []
            raise CheckpointError(
                f"The checkpoint of step {step} in {self.folder} is of another state:\n  "
                + "\n  ".join(sorted(lines)[:8] + more)
                + "\nUse the model and optimizer it was saved with, or another output folder."
            )

    def _existing(self, step: int | None) -> int:
        steps = self.steps
        if not steps:
            raise CheckpointError(f"There is no checkpoint in {self.folder}.")
        if step is not None and step not in steps:
            raise CheckpointError(
                f"There is no checkpoint of step {step} in {self.folder}; there are {steps}."
            )
        return steps[-1] if step is None else step

    def wait(self) -> None:
        """Returns once everything is on disk; raises what went wrong in writing."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the folder."""
        self._manager.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Keep:
    """Which checkpoints Orbax keeps: the latest, and those with the best scores."""

    def __init__(self, owner: Checkpointer):
        self._owner = owner

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(sorted(steps)[-self._owner._keep :])
        kept |= set(self._owner._ranked(steps)[: self._owner._keep_best])
        return [step in kept for step in steps]


def save(folder: str | os.PathLike, state: PyTree, *, info: dict[str, Any] | None = None) -> None:
    """Saves one state into a new folder, and returns once it is on disk."""
    with Checkpointer(folder) as checkpoints:
        checkpoints.save(0, state, info=info)


def restore(folder: str | os.PathLike, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """The latest state in a folder, like `Checkpointer.restore`."""
    if not Path(folder).is_dir():
        raise CheckpointError(f"There is no checkpoint folder {Path(folder).absolute()}.")
    with Checkpointer(folder) as checkpoints:
        return checkpoints.restore(like)
