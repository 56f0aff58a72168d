"""Editing the state of chosen parameters: the slots that mirror them, wherever they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.paths import path_name

PyTree = Any


def edit_state(state: PyTree, params: PyTree, pattern: str, change: Callable[[Any], Any]) -> PyTree:
    """Maps `change` over every slot of the parameters whose path matches.

    A slot of a parameter is a leaf of the state whose path ends in the parameter's own: moments,
    averages and accumulators, in any chain, group or wrapper. Counts and hyper-parameters stay.
    Parameters that are one bare array have the empty path, and slots of their own shape.

    Args:
      state: an optimizer state, or a `TrainState` (whose own is edited).
      params: the parameters, for their paths and shapes.
      pattern: a regular expression, searched for in paths such as `dense/kernel`.
      change: from a slot to its new value, of the same shape and dtype.

    Raises:
      ValueError: a pattern that matches no parameter, or parameters without a slot; a change of
        shape.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    >>> tx = tt.adam(1e-3)
    >>> _, state = tx.update(params, tx.init(params))
    >>> state = tt.edit_state(state, params, "head", jnp.zeros_like)
    >>> mu = tt.get(state, "mu")
    >>> mu["head"].tolist(), bool(mu["body"].any())
    ([0.0, 0.0], True)
    """
    validation.function("change", change, "from a slot to its new value", takes=1)
    return _edit(state, params, pattern, lambda path, leaf: change(leaf), "edit_state")


def reset_state(
    tx: optax.GradientTransformation, state: PyTree, params: PyTree, pattern: str
) -> PyTree:
    """The state with the slots of matching parameters as `tx.init(params)` makes them.

    Counts are shared by all parameters and stay. So a bias correction that the others have left
    behind does not come back: reset second moments start at 0 with an old count, and the first
    updates are long. Warm the learning rate of the group up again, or `edit_state` the first moment
    alone.

    Raises:
      ValueError: as `edit_state`.
    """
    fresh = dict(jax.tree_util.tree_flatten_with_path(tx.init(params))[0])

    def change(path: Any, leaf: Any) -> Any:
        if path not in fresh:
            raise ValueError(
                f"reset_state: the state has {path_name(path)!r}, which tx.init(params) has not; "
                "give the tx that the state is of."
            )
        # A state that is stacked over devices has one more axis than a fresh one.
        return jnp.broadcast_to(fresh[path], leaf.shape)

    return _edit(state, params, pattern, change, "reset_state")


def _edit(state: PyTree, params: PyTree, pattern: str, change: Any, of: str) -> PyTree:
    tree = getattr(state, "opt_state", state)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{of}: {pattern!r} is not a regular expression: {error}.") from error
    named = jax.tree_util.tree_flatten_with_path(params)[0]
    paths = [path for path, _ in named]
    chosen = {path for path in paths if expression.search(path_name(path))}
    if not chosen:
        names = ", ".join(path_name(path) for path in paths[:8])
        raise ValueError(f"{of}: {pattern!r} matches none of the parameters ({names}).")
    every = {path: jnp.shape(leaf) for path, leaf in named}
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    new, edited = [], 0
    for path, leaf in leaves:
        owner = _owner(path, leaf, every)
        if owner is None or owner not in chosen:
            new.append(leaf)
            continue
        value = change(path, leaf)
        if jnp.shape(value) != jnp.shape(leaf):
            raise ValueError(
                f"{of}: the slot {path_name(path)!r} has shape {jnp.shape(leaf)} and would "
                f"become {jnp.shape(value)}."
            )
        value = jnp.asarray(value).astype(leaf.dtype)
        if not isinstance(leaf, jax.core.Tracer) and leaf.committed:
            value = jax.device_put(value, leaf.sharding)
        new.append(value)
        edited += 1
    if not edited:
        raise ValueError(f"{of}: the state holds nothing for {pattern!r} (a frozen group?).")
    edited_state = jax.tree_util.tree_unflatten(treedef, new)
    return state.replace(opt_state=edited_state) if hasattr(state, "opt_state") else edited_state


def _owner(path: Any, leaf: Any, shapes: dict[Any, tuple[int, ...]]) -> Any:
    """The path of the parameter that a leaf of a state is a slot of, or `None`."""
    # The longest ending that is a parameter's path; a leaf is never the whole state.
    for start in range(1, len(path) + 1):
        tail = path[start:]
        if tail in shapes:
            # Every path ends in the empty one: there, shape and dtype have to decide.
            return tail if tail or _like(path, leaf, shapes[()]) else None
    return None


def _like(path: Any, leaf: Any, shape: tuple[int, ...]) -> bool:
    own = jnp.shape(leaf)[max(jnp.ndim(leaf) - len(shape), 0) :] == shape
    named = any(getattr(key, "name", None) == "hyperparams" for key in path)
    return own and bool(jnp.issubdtype(leaf.dtype, jnp.inexact)) and not named
