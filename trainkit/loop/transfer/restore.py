"""`restore`: of a checkpoint what is asked for, into what is given."""

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
    """What is asked for of a checkpoint, in the tree that is given or in one of its own.

    Leaves go by name, as `trainkit checkpoints FOLDER --leaves` lists them. Patterns are regular
    expressions for the beginning of a name, up to its end or a "/": "params", "params/.*/bias".
    Nothing is left out, kept or changed without being said.

    Args:
      folder: of checkpoints, or of a run.
      into: the tree to fill: a `TrainState`, parameters, anything; arrays, or
        `jax.ShapeDtypeStruct`s where every leaf is to be found. The result has its structure, its
        dtypes, and lies where it lies: on other devices, in another placement, in another number
        of processes. `None`: nested dicts and lists of NumPy arrays; with `tx` a `TrainState`.
      step: which checkpoint; by default the newest that is whole.
      only: which leaves of the checkpoint. The name of a single subtree ("params") gives that
        subtree itself, unless `into` has leaves under its name.
      rename: pattern -> name that these leaves have in `into`; groups as in `re.sub`.
      fresh: patterns for leaves of `into` that stay as they are: another head.
      cast: `True`: floating leaves get the dtypes of `into`; without `into`, a dtype.
      tx: the gradient transformation that goes on. Slots of its state are taken from the
        checkpoint where a rule with the same fields has them in the same shape, wherever it stands
        in a chain. The others are those of `tx.init` for the restored parameters, so that an EMA
        which is new begins with them.
      grow: makes the state of a bigger model of the restored one: a `GrowthMap`, or a function of
        the restored `TrainState` (of the subtree, with `only="params"`), such as
        `lambda small: trainkit.growth.grow(small, net, wider, batch, tx=tx)`. Needs `tx` for the
        optimizer state.
      say: where the list of what was taken and what was not goes.

    Raises:
      CheckpointError: there is none; a leaf of `into` is not in it, or has another shape or dtype.
      DamagedError: the step asked for, or every one, is not what was written.
      ValueError: a pattern that matches nothing.

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
      begun anew by tx:
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
        raise ValueError("fresh= needs `into`, whose leaves stay as they are.")
    _check_dtype(cast)
    _check_tree(into)
    validation.function("say", say, "of a text", takes=1)
    path = steps_folder(folder)
    request = Request(path, into, only, rename or {}, kept, cast, tx)
    read = request.of if grow is None else lambda step: grown(request, step, grow)
    if step is None:
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
    """The folder that steps lie in: itself, or the one in the folder of a run.

    Raises:
      CheckpointError: there is no such folder.
    """
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint folder {path}.")
    inside = path / CHECKPOINTS
    return inside if inside.is_dir() and not steps_in(path) else path
