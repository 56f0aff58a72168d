"""Tree structures of the two models, for plans of models whose structures differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from trainkit._core.paths import path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import PlanData

PyTree = Any


def big_tree(plan: PlanData) -> Any:
    """The structure of the big model's parameters; `None` if it is that of the small model."""
    return None if plan.depth is None and plan.trees is None else _trees(plan)[1]


def small_tree(plan: PlanData, values: Mapping[str, Any]) -> PyTree:
    """The small model's tree, for a plan that adds layers.

    Args:
      plan: the plan.
      values: path in the small model -> value of the leaf.

    Raises:
      GrowthError: the plan was read from JSON and does not know the tree structures.
    """
    tree = _trees(plan)[0]
    places = jax.tree.unflatten(tree, range(tree.num_leaves))
    return jax.tree_util.tree_map_with_path(lambda at, _: values[path_name(at)], places)


def _trees(plan: PlanData) -> tuple[Any, Any]:
    if plan.trees is None or any(tree is None for tree in plan.trees):
        raise GrowthError(
            "this plan was read from JSON, the parameters of the two models have different "
            "containers (more layers, or sizes that modules store), and not only dicts, lists and "
            "tuples",
            hint="pass like=, the big model's parameters or their shapes, or make a new plan",
        )
    return plan.trees
