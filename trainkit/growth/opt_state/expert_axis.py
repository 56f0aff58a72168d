"""The optimizer state of a dense layer as that of one expert."""

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
    """The state of `tx` for the lifted parameters; see `trainkit.growth.maps.expert_axis`.

    Raises:
      GrowthError: a slot's size depends on the number of its parameter's axes.
    """
    shapes = lambda tree: list(map(jnp.shape, jax.tree.leaves(tree)))
    if shapes(lifted(params, growth)) == shapes(params):
        return state
    template = jax.eval_shape(lambda p: tx.init(lifted(p, growth)), params)
    if str(jax.tree.structure(template)) != str(jax.tree.structure(state)):
        raise GrowthError(
            "the optimizer treats the experts' stacked leaves otherwise than the dense layer's "
            "(a mask or a label that looks at the number of axes)",
            hint="grow with reset=True",
        )

    def one(path: tuple[Any, ...], spec: Any, x: Any) -> Any:
        if jnp.shape(x) == spec.shape:
            return x
        if jnp.size(x) != spec.size:
            raise GrowthError(
                f"the optimizer's {path_name(path)} has shape {jnp.shape(x)}, which is not that of "
                f"one expert, {spec.shape}",
                hint="grow with reset=True",
            )
        return jnp.reshape(x, spec.shape)

    return jax.tree_util.tree_map_with_path(one, template, state)
