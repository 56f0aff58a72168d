"""The optimizer state of a dense layer as that of one expert, with a leading axis of size 1."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.paths import path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.expert_axis import lifted
from trainkit.growth.maps.growth_map import MapData

PyTree = Any


def lifted_state(
    tx: optax.GradientTransformation, state: PyTree, params: PyTree, growth: MapData
) -> PyTree:
    """The state of `tx` for parameters with an expert axis; see `growth.maps.expert_axis`.

    Raises:
      GrowthError: the size or the structure of a slot depends on the rank of its parameter.
    """
    shapes = lambda tree: list(map(jnp.shape, jax.tree.leaves(tree)))
    if shapes(lifted(params, growth)) == shapes(params):
        return state
    template = jax.eval_shape(lambda p: tx.init(lifted(p, growth)), params)
    if str(jax.tree.structure(template)) != str(jax.tree.structure(state)):
        raise GrowthError(
            "the optimizer treats the stacked leaves of experts and the leaves of the dense layer "
            "differently (a mask or a label depends on the number of axes)",
            hint="grow with reset=True",
        )

    def one(path: tuple[Any, ...], spec: Any, x: Any) -> Any:
        if jnp.shape(x) == spec.shape:
            return x
        if jnp.size(x) != spec.size:
            raise GrowthError(
                f"{path_name(path)} of the optimizer state has shape {jnp.shape(x)}, but that of "
                f"one expert is {spec.shape}",
                hint="grow with reset=True",
            )
        return jnp.reshape(x, spec.shape)

    return jax.tree_util.tree_map_with_path(one, template, state)
