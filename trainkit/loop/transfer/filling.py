"""Filling a tree with values from a checkpoint, with the tree's dtypes and shardings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.loop.saved.leaves import data_of, from_array, is_key, leaves_by_name
from trainkit.loop.saved.step import CheckpointError
from trainkit.loop.transfer.opt_state import OPT_STATE, PARAMS
from trainkit.step.state import TrainState

PyTree = Any


def filled(
    tree: PyTree,
    values: Mapping[str, Any],
    tx: optax.GradientTransformation | None,
    *,
    new: bool,
) -> PyTree:
    """The tree with these leaves; missing leaves of the optimizer state are those of `tx.init`.

    Args:
      tree: arrays, or `jax.ShapeDtypeStruct`s.
      values: name -> array on the host.
      tx: initialises the optimizer state for the filled parameters; `None`: does nothing.
      new: whether the tree is only shapes: everything else is initialised too.

    Raises:
      CheckpointError: a leaf is a shape, and has no value.
    """
    own = leaves_by_name(tree)
    done = {name: placed(value, own[name]) for name, value in values.items()}
    if tx is not None:
        params, model_state = (_part(tree, name, own | done) for name in (PARAMS, "model_state"))
        begun = TrainState.create(params, tx, model_state=model_state)
        for name, leaf in leaves_by_name(begun).items():
            if new or name.startswith(OPT_STATE):
                own[name] = placed(leaf, own[name])
    leaves = {name: done.get(name, leaf) for name, leaf in own.items()}
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise CheckpointError(
                f"{name} is not taken from the checkpoint, and `into` has only its shape: pass "
                "arrays as `into`, or take more of the checkpoint with only=."
            )
    return _like(tree, leaves)


def placed(value: Any, like: Any) -> Any:
    """A value with the dtype and sharding of `like`, or as a Python number if `like` is one."""
    sharding = getattr(like, "sharding", None)
    if not getattr(like, "committed", True):
        sharding = None  # stay uncommitted, so that a step may place it
    if is_key(like):
        key = value if is_key(value) else jax.random.wrap_key_data(value)
        return key if sharding is None else jax.device_put(key, sharding)
    array = np.asarray(data_of(value))
    if not hasattr(like, "dtype"):
        return from_array(array, like, None)
    array = array.astype(like.dtype)
    if isinstance(like, np.ndarray | np.generic):
        return array
    if sharding is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _part(tree: PyTree, name: str, leaves: Mapping[str, Any]) -> PyTree:
    inside = {n: leaf for n, leaf in leaves.items() if n == name or n.startswith(f"{name}/")}
    return _like(getattr(tree, name), inside)


def _like(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    return jax.tree.unflatten(jax.tree.structure(tree), list(leaves.values()))
