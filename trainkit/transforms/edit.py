"""Editing the state of chosen parameters: the slots that mirror them, wherever they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit.transforms import _check

PyTree = Any


def edit_state(state: PyTree, params: PyTree, pattern: str, change: Callable[[Any], Any]) -> PyTree:
    """Maps `change` over every slot of the parameters whose path matches.

    A slot of a parameter is a leaf of the state whose path ends in the parameter's own: moments,
    averages and accumulators, in any chain, group or wrapper. Counts and hyper-parameters stay.

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
        # A state that is stacked over devices has one more axis than a fresh one.
        return jnp.broadcast_to(fresh[path], leaf.shape)

    return _edit(state, params, pattern, change, "reset_state")


def _edit(state: PyTree, params: PyTree, pattern: str, change: Any, of: str) -> PyTree:
    tree = getattr(state, "opt_state", state)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{of}: {pattern!r} is not a regular expression: {error}.") from error
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    chosen = {path for path in paths if expression.search(_check.name_of(path))}
    if not chosen:
        names = ", ".join(_check.name_of(path) for path in paths[:8])
        raise ValueError(f"{of}: {pattern!r} matches none of the parameters ({names}).")
    every = set(paths)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    new, edited = [], 0
    for path, leaf in leaves:
        # The longest ending that is a parameter's path is the parameter that the slot is of.
        tails = (path[i:] for i in range(1, len(path) + 1))
        owner = next((tail for tail in tails if tail in every), None)
        if owner is None or owner not in chosen:
            new.append(leaf)
            continue
        value = change(path, leaf)
        if jnp.shape(value) != jnp.shape(leaf):
            raise ValueError(
                f"{of}: the slot {_check.name_of(path)!r} has shape {jnp.shape(leaf)} and would "
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
