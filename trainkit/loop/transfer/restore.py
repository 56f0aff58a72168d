"""`restore`: restores a checkpoint, or parts of it, into a given tree or a new one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.run_files import CHECKPOINTS
from trainkit.loop.saved.leaves import leaves_by_name
from trainkit.loop.saved.newest import newest
from trainkit.loop.saved.step import CheckpointError, steps_in
from trainkit.loop.transfer.growing import Growth, grown
from trainkit.loop.transfer.request import Request
from trainkit.loop.transfer.restored import Restored
from trainkit.loop.transfer.selection import Patterned, Patterns

PyTree = Any


@validation.named_options
def restore(
    folder: str | os.PathLike,
    into: PyTree = None,
    *,
    step: int | None = None,
    only: Patterns | None = None,
    rename: Mapping[str, str] | None = None,
    fresh: Patterns = (),
    cast: Any = False,
    tx: optax.GradientTransformation | None = None,
    grow: Growth | None = None,
    say: Callable[[str], None] = print,
) -> Restored:
    """Restores a checkpoint, or parts of it, into a given tree or a new one.

    Leaves are matched by name, as `trainkit checkpoints FOLDER --leaves` lists them. Patterns are
    regular expressions for the start of a name, up to its end or a "/": "params", "params/.*/bias".
    The result lists all leaves that were not taken, kept or changed.

    Args:
      folder: the folder of checkpoints, or of a run; or a safetensors file, of this package or of
        another program (a dot in its names then separates as "/" does).
      into: the tree to fill: a `TrainState`, parameters, or any other tree of arrays, or of
        `jax.ShapeDtypeStruct`s if every leaf is in the checkpoint. The result has its structure,
        dtypes and shardings, also for other devices, another placement or number of processes.
        `None`: nested dicts and lists of NumPy arrays, or with `tx` a `TrainState`.
      step: the step to restore; default: the newest undamaged one.
      only: patterns for the leaves to restore. The name of a single subtree ("params") returns that
        subtree itself, unless `into` has leaves under its name.
      rename: pattern -> name of these leaves in `into`; groups as in `re.sub`.
      fresh: patterns for leaves of `into` that keep their values, such as a new head.
      cast: `True`: floating leaves get the dtypes of `into`; without `into`, a dtype.
      tx: the gradient transformation of the result. Slots of its state are restored if a
        transformation in the checkpoint, anywhere in its chain, has the same fields and shapes.
        Other slots are those of `tx.init(restored parameters)`; a new EMA starts with these.
      grow: grows the restored state to a bigger model: a `GrowthMap`, or a function of the restored
        `TrainState` (with `only="params"`: of that subtree), such as
        `lambda small: trainkit.growth.grow(small, net, wider, batch, tx=tx)`. Needs `tx` for the
        optimizer state.
      say: function that is called with the text of the result's lists.

    Returns:
      A `Restored`, with the tree as `.state`.

    Raises:
      CheckpointError: there is no checkpoint, or it lacks a leaf of `into`, or a shape or dtype
        differs.
      DamagedError: the given step, or (without `step`) every step, is damaged.
      ValueError, TypeError: an invalid option, or a pattern that matches nothing.

    >>> import tempfile, jax.numpy as jnp, optax, trainkit
    >>> folder, tx = tempfile.mkdtemp(), optax.adam(1e-3)
    >>> old = trainkit.TrainState.create({"body": jnp.ones(3), "head": jnp.ones(2)}, tx)
    >>> trainkit.checkpoint.save(folder, old)
    >>> restore(folder, only="params", say=lambda text: None).state["body"]
    array([1., 1., 1.], dtype=float32)
    >>> new = trainkit.TrainState.create({"body": jnp.zeros(3), "head": jnp.zeros(5)}, tx)
    >>> found = restore(folder, new, fresh="params/head", tx=tx)  # another head
    Restored step 0 of ...: 6 of 9 leaves taken.
      not taken:
        params/head
        opt_state/0/mu/head
        opt_state/0/nu/head
      not from the checkpoint:
        params/head
      initialised by tx:
        opt_state/0/mu/head
        opt_state/0/nu/head
    >>> found.state.params["body"], found.state.params["head"].shape
    (Array([1., 1., 1.], dtype=float32), (5,))
    """
    validation.path("folder", folder)
    if step is not None:
        validation.integer("step", step, least=0)
    if rename is not None:
        validation.mapping("rename", rename, "{'encoder': 'body'}")
    if tx is not None:
        validation.transformation(tx)
    if grow is not None and not hasattr(grow, "opt_state"):
        validation.function("grow", grow, "of the restored state, or a GrowthMap", takes=1)
    if only is not None:
        Patterned(only, "only")
    kept = Patterned(fresh, "fresh")
    if fresh and into is None and tx is None:
        raise ValueError("fresh= needs `into`, whose leaves keep their values.")
    _check_dtype(cast)
    _check_tree(into)
    validation.function("say", say, "of a text", takes=1)
    path = Path(folder).expanduser().absolute()
    path = path if path.is_file() else steps_folder(folder)
    request = Request(path, into, only, rename or {}, kept, cast, tx)
    read = request.restored if grow is None else lambda step: grown(request, step, grow)
    if path.is_file():
        if step is not None:
            raise ValueError(f"step={step}: {path} is a single file; omit step.")
        found = read(0)
    elif step is None:
        found = newest(path, read, say)
    elif step in (steps := steps_in(path)):
        found = read(step)
    else:
        raise CheckpointError(f"There is no checkpoint of step {step} in {path}: {steps}.")
    say(str(found))
    return found


def _check_dtype(cast: Any) -> None:
    if isinstance(cast, bool):
        return
    try:
        known = cast is not None and jnp.issubdtype(jnp.dtype(cast), jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise TypeError(f'cast must be True or a floating dtype, such as "bfloat16", not {cast!r}.')


def _check_tree(into: PyTree) -> None:
    for name, leaf in leaves_by_name(into).items():
        if not (hasattr(leaf, "shape") or isinstance(leaf, bool | int | float | complex)):
            raise TypeError(
                f"into must be a tree of arrays or their shapes, such as a TrainState; {name} is "
                f"{leaf!r:.60}."
            )


def steps_folder(folder: str | os.PathLike) -> Path:
    """The folder of the steps: the given folder, or the one inside the folder of a run.

    Raises:
      CheckpointError: there is no such folder.
    """
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = validation.near(path.name, beside) or "; give the folder of a run."
        raise CheckpointError(f"There is no checkpoint folder {path}{hint}")
    inside = path / CHECKPOINTS
    return inside if inside.is_dir() and not steps_in(path) else path
