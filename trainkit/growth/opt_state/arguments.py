"""The implementation of `GrowthMap.opt_state`: checks arguments and fills in missing ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.params import grow_params, plan_of, run_on_device
from trainkit.growth.opt_state.grow import grow_opt_state
from trainkit.growth.opt_state.slots import Slots
from trainkit.growth.plan.data import PlanData
from trainkit.growth.plan.trees import small_tree
from trainkit.growth.plan.validation import check_params, check_shapes, check_tx
from trainkit.packed import unpack_all

PyTree = Any


def opt_state_of(
    growth: MapData,
    tx: optax.GradientTransformation,
    opt_state: PyTree,
    params: PyTree | None,
    grown_params: PyTree | None,
    *,
    slots: Slots | None = None,
    reset: Any = False,
    donate: bool = False,
    out_shardings: Any = None,
) -> PyTree:
    """See `trainkit.growth.GrowthMap.opt_state`."""
    check_tx(tx)
    plan = plan_of(growth)
    if params is not None:
        check_params(plan, _trained(params))
    if grown_params is not None:
        shapes = {leaf.path: tuple(leaf.big) for leaf in plan.leaves}
        hint = "pass the result of GrowthMap.params"
        check_shapes(_trained(grown_params), shapes, "grown_params", hint)
    if params is None:
        if growth.how in ("noise", "zero_out") and grown_params is None:
            raise GrowthError(
                f"how={growth.how!r} draws random values with the scale of the parameters",
                hint="pass params=… (the small model's) too",
            )
        params = _tree_of(plan, opt_state)
    if grown_params is None:
        grown_params = grow_params(growth, params)

    def run(opt_state: PyTree, params: PyTree, grown_params: PyTree) -> PyTree:
        return grow_opt_state(tx, opt_state, growth, params, grown_params, slots=slots, reset=reset)

    spent = opt_state if donate else None
    return run_on_device(run, (opt_state, params, grown_params), out_shardings, spent)


def _trained(params: PyTree) -> PyTree:
    params = unpack_all(params)
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def _tree_of(plan: PlanData, opt_state: PyTree) -> PyTree:
    """Zeros in the tree structure of the small parameters, which is that of a slot of the state."""
    shapes = {name: tuple(leaf.small) for name, leaf in plan.old.items()}
    dtypes = {name: leaf.dtype for name, leaf in plan.old.items()}
    zeros = {name: jnp.zeros(shape, dtypes[name]) for name, shape in shapes.items()}
    if plan.trees is not None and not any(tree is None for tree in plan.trees):
        return small_tree(plan, zeros)
    found: list[PyTree] = []

    def look(node: PyTree) -> bool:
        if not found:
            leaves = named_leaves(node)
            if {name: tuple(jnp.shape(leaf)) for name, leaf in leaves.items()} == shapes:
                found.append(node)
        return bool(found)

    jax.tree.flatten(opt_state, is_leaf=look)
    if found:
        return jax.tree_util.tree_map_with_path(lambda at, _: zeros[path_name(at)], found[0])
    tree: dict[str, Any] = {}
    for path, value in zeros.items():
        node, (*parents, last) = tree, path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
