"""Parameters of a dense layer as those of one expert, with a leading axis of size 1."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import path_name
from trainkit.growth.maps.growth_map import MapData

PyTree = Any


def lifted(tree: PyTree, growth: MapData) -> PyTree:
    """Adds a leading axis of size 1 to the leaves of a small model that become experts."""
    ranks = {
        origin.leaf: len(growth.leaves[name].axes)
        for name, origin in growth.origin.items()
        if name in growth.leaves
    }

    def one(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        lift = ranks.get(path_name(path)) == jnp.ndim(x) + 1
        return jnp.reshape(x, (1, *jnp.shape(x))) if lift else x

    return jax.tree_util.tree_map_with_path(one, tree)
