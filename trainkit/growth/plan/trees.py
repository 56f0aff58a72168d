"""The trees that a plan which adds layers goes between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from trainkit._core.paths import path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import PlanData

PyTree = Any


def big_tree(plan: PlanData) -> Any:
    """The structure of the big model's parameters; `None` where it is the small one's."""
    return None if plan.depth is None else _trees(plan)[1]


def small_tree(plan: PlanData, values: Mapping[str, Any]) -> PyTree:
    """The small model's tree, of a plan that adds layers, from the values of its leaves by name."""
    tree = _trees(plan)[0]
    places = jax.tree.unflatten(tree, range(tree.num_leaves))
    return jax.tree_util.tree_map_with_path(lambda at, _: values[path_name(at)], places)


def _trees(plan: PlanData) -> tuple[Any, Any]:
    if plan.trees is None:
        raise GrowthError(
            "this plan was read from JSON, adds layers, and the parameters hold other containers "
            "than dicts, lists and tuples",
            hint="pass like=, the big model's parameters or their shapes, or make the plan anew",
        )
    return plan.trees
