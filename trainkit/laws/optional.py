"""Helpers of laws with further dependencies, imported lazily: saving and growth."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.law import NotApplicable
from trainkit.laws.protocol import first_line


def by_msgpack(state: Any) -> Any:
    """The state after a round trip through Flax's bytes; typed random keys are saved as integers.

    Flax serialises containers and its own classes. Modules of other libraries, which are pytree
    nodes, are saved as a list of leaves.
    """
    from flax import serialization

    if by_leaves(state):
        treedef: Any
        leaves, treedef = jax.tree.flatten(state)
        return treedef.unflatten(by_msgpack(leaves))

    is_key = lambda x: isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    held = jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)
    back = serialization.from_bytes(held, serialization.to_bytes(held))
    restore = lambda x, old: (
        jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(old))
        if is_key(old)
        else jnp.asarray(x)  # it gives NumPy arrays, a step gets JAX's
    )
    return jax.tree.map(restore, back, state)


def by_leaves(state: Any) -> bool:
    """Whether a state has nodes that Flax cannot serialise."""
    return any(_is_foreign(node) for node in _nodes(state))


def _nodes(tree: Any) -> list[Any]:
    """Every container in a tree, itself included."""
    below = jax.tree.leaves(tree, is_leaf=lambda x: x is not tree)
    if jax.tree_util.all_leaves([tree]):
        return []
    return [tree, *(node for child in below for node in _nodes(child))]


def _is_foreign(node: Any) -> bool:
    from flax import serialization

    known = (dict, list, tuple, type(None))
    return not isinstance(node, known) and serialization.to_state_dict(node) is node


def by_orbax(state: Any) -> Any:
    """The state after a round trip through an Orbax checkpoint on disk."""
    import orbax.checkpoint as ocp

    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as saver:
        saver.save(Path(folder) / "state", state)
        saver.wait_until_finished()
        return saver.restore(Path(folder) / "state", state)


def grown(tx: Any, state: Any, copies: Any, f: float, params: Any, new: Any) -> Any:
    """The state of `tx` after the last axis of "b" and "w" was copied; f is the gradient factor.

    Raises:
      NotApplicable: the state does not grow.
    """
    from trainkit.growth.errors import GrowthError
    from trainkit.growth.maps.growth_map import MapData
    from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
    from trainkit.growth.opt_state.grow import grow_opt_state

    n = len(copies)
    axis = AxisMap(np.asarray(copies), np.ones(n), np.full(n, f))
    growth = MapData({"b": LeafMap((axis,)), "w": LeafMap((None, axis))})
    try:
        return grow_opt_state(tx, state, growth, params, new)
    except GrowthError as error:
        raise NotApplicable(f"its state does not grow: {first_line(error)}") from error
