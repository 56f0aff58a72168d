"""Edits of the slots of chosen parameters, anywhere in an optimizer state."""

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
    """Applies `change` to every slot of the parameters whose path matches.

    A slot of a parameter is a leaf of the state whose path ends with the parameter's path: moments,
    averages and accumulators, in any chain, group or wrapper. Counts and hyper-parameters stay. If
    the parameters are a single array, its slots are the leaves with its shape.

    Args:
      state: an optimizer state, or a `TrainState`, whose optimizer state is edited.
      params: the parameters, for their paths and shapes.
      pattern: a regular expression, searched for in paths such as `dense/kernel`.
      change: old value of a slot -> new value, with the same shape and dtype.

    Raises:
      ValueError: the pattern matches no parameter, or only parameters without slots; or `change`
        changes a shape.

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
    """The state with new slots from `tx.init(params)` for the matching parameters.

    Counts are shared by all parameters, so they stay. With an old count there is no bias
    correction, so second moments that are reset to 0 make the first updates too large. Warm up the
    learning rate of the group again, or reset only the first moment with `edit_state`.

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
        raise ValueError(f"{of}: the state has no slots for {pattern!r} (is the group frozen?).")
    edited_state = jax.tree_util.tree_unflatten(treedef, new)
    return state.replace(opt_state=edited_state) if hasattr(state, "opt_state") else edited_state


def _owner(path: Any, leaf: Any, shapes: dict[Any, tuple[int, ...]]) -> Any:
    """The path of the parameter that a leaf of a state is a slot of, or `None`."""
    # The longest suffix that is a parameter's path; a leaf is never the whole state.
    for start in range(1, len(path) + 1):
        tail = path[start:]
        if tail in shapes:
            # Every path ends with the empty path, so compare shape and dtype.
            return tail if tail or _like(path, leaf, shapes[()]) else None
    return None


def _like(path: Any, leaf: Any, shape: tuple[int, ...]) -> bool:
    own = jnp.shape(leaf)[max(jnp.ndim(leaf) - len(shape), 0) :] == shape
    named = any(getattr(key, "name", None) == "hyperparams" for key in path)
    return own and bool(jnp.issubdtype(leaf.dtype, jnp.inexact)) and not named
