"""Reading a saved step, without writing: its info, its leaves, and checks of its digests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation
from trainkit._core.processes import together
from trainkit.loop.saved.failures import attempt
from trainkit.loop.saved.info import Digests, can_be_checked, is_changed, read_info
from trainkit.loop.saved.leaves import data_of, from_array, leaves_by_name, placed_shape

PyTree = Any
T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint does not exist, or does not fit the requested state."""


class DamagedError(CheckpointError):
    """A checkpoint is damaged: it differs from what was written."""


def steps_in(folder: Path) -> list[int]:
    """The complete steps in a folder, in order: a step gets its name when it is complete."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def step_info(folder: Path, step: int) -> tuple[dict[str, Any], Digests]:
    """The info and the digests of a step; raises DamagedError."""

    def read() -> tuple[dict[str, Any], Digests]:
        info, digests = read_info(folder / str(step) / "info")
        if info["_step"] != step:
            raise ValueError(f"it is that of step {info['_step']} under another name")
        return info, digests

    return _whole(folder, step, read)


def read_step(folder: Path, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """The state of a step and its info; see `Checkpointer.restore`."""
    info, digests = step_info(folder, step)
    wanted = leaves_by_name(like)
    _check_same(folder, step, wanted, info["_leaves"])

    shapes = {name: placed_shape(leaf) for name, leaf in wanted.items()}
    # Arrays that are sharded differently than when saved are read whole, to check their digests.
    cut = {n: x for n, x in shapes.items() if not can_be_checked(x, digests.get(n, {}))}
    shapes |= {name: np.empty(shape.shape, shape.dtype) for name, shape in cut.items()}

    def read() -> dict[str, Any]:
        arrays = _arrays(folder / str(step) / "state", shapes)
        _check_unchanged(arrays, digests)
        for name, shape in cut.items():
            get = arrays[name].__getitem__
            arrays[name] = jax.make_array_from_callback(shape.shape, shape.sharding, get)
        return arrays

    arrays = together(lambda: _whole(folder, step, read), DamagedError)
    leaves = [
        from_array(arrays[name], leaf, info["_keys"].get(name)) for name, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), info


def read_leaves(
    folder: Path, step: int, names: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(name -> whole NumPy array or random key, info) for leaves of a step, however sharded."""
    info, digests = step_info(folder, step)
    saved = {name: info["_leaves"][name] for name in names}
    shapes = {name: np.empty(shape, jnp.dtype(dtype)) for name, (shape, dtype) in saved.items()}

    def read() -> dict[str, Any]:
        arrays = _arrays(folder / str(step) / "state", shapes)
        _check_unchanged(arrays, digests)
        return arrays

    arrays = _whole(folder, step, read)
    kinds = info["_keys"]
    return {
        name: jax.random.wrap_key_data(array, impl=kinds[name]) if name in kinds else array
        for name, array in arrays.items()
    }, info


def _check_unchanged(arrays: Mapping[str, Any], digests: Digests) -> None:
    changed = [name for name, array in arrays.items() if is_changed(array, digests.get(name, {}))]
    if changed:
        raise ValueError(f"{_listed(changed)} differs from what was saved")


def _arrays(path: Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    # Orbax refuses arrays of size 0; they need no values.
    stored = {name: shape for name, shape in shapes.items() if shape.size}
    found: dict[str, Any] = {}
    if stored:
        how = ocp.checkpoint_utils.construct_restore_args(stored)
        args = ocp.args.PyTreeRestore(stored, restore_args=how, partial_restore=True)
        # Only the handler: a Checkpointer would wait for processes that have found damage.
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            found = reader.restore(Path(path), args=args)
    for name in shapes.keys() - stored.keys():
        shape = shapes[name]
        on_host = isinstance(shape, np.ndarray)
        found[name] = (
            shape if on_host else jnp.zeros(shape.shape, shape.dtype, device=shape.sharding)
        )
    return found


def _whole(folder: Path, step: int, read: Callable[[], T]) -> T:
    """The result of `read`; any error in it becomes a DamagedError, as we wrote these files."""
    return attempt(read, lambda why: DamagedError(f"{_named(folder, step)} is damaged: {why}."))


def _check_same(folder: Path, step: int, wanted: dict[str, Any], saved: dict[str, Any]) -> None:
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
            f"{_named(folder, step)} is of another state:\n  "
            + "\n  ".join(sorted(lines)[:8] + more)
            + "\nUse the model and optimizer it was saved with, or another output folder."
        )


def _named(folder: Path, step: int) -> str:
    return f"The checkpoint of step {step} in {folder}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
