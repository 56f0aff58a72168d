"""Inputs of the big model that stand for inputs of the small one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import path_name
from trainkit.growth.axes.queries import source_map
from trainkit.growth.axes.structures import axis_from, grown_nodes
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import LeafPlan, PlanData

PyTree = Any


def new_inputs(plan: PlanData, inputs: tuple[PyTree, ...], key: jax.Array) -> tuple[PyTree, ...]:
    """See `trainkit.growth.Plan.new_inputs`."""
    leaves = {leaf.path: leaf for leaf in plan.inputs}
    symbols = dict(plan.symbols)
    seen = set()

    def one(path: tuple[Any, ...], x: Any) -> Any:
        name = path_name(path)
        seen.add(name)
        x = jnp.asarray(symbols[name])[x].astype(x.dtype) if name in symbols else x
        if name not in leaves:
            return x
        return _widened(plan, leaves[name], jnp.asarray(x), jax.random.fold_in(key, len(seen)))

    grown = jax.tree_util.tree_map_with_path(one, inputs)
    if missing := [*({*leaves, *symbols} - seen)]:
        raise GrowthError(
            f"the inputs {sorted(seen)} are not those of the plan: {missing[0]} is missing",
            hint="pass the arguments that the small model is called with after its parameters",
        )
    return grown


def _widened(plan: PlanData, leaf: LeafPlan, x: jax.Array, key: jax.Array) -> jax.Array:
    """An input with its old entries at their new places."""
    zero = plan.zero_inputs or not jnp.issubdtype(x.dtype, jnp.inexact)
    for d, source in sources(plan, leaf).items():
        if x.shape[d] != leaf.small[d]:
            raise GrowthError(
                f"axis {d} of input {leaf.path} has {x.shape[d]} entries; the plan was made for "
                f"{leaf.small[d]}",
                hint="pass an input of the small model",
            )
        out = jnp.take(x, np.maximum(source, 0), d)
        new = (source < 0).reshape([-1 if e == d else 1 for e in range(x.ndim)])
        key, own = jax.random.split(key)
        fresh = jnp.zeros_like(out) if zero else jax.random.normal(own, out.shape, out.dtype)
        x = jnp.where(new, fresh, out)
    return x


def old_first(plan: PlanData, results: PyTree) -> PyTree:
    """The big model's results with the old entries first, in their order, and then the new ones."""
    leaves, tree = jax.tree.flatten(results)
    for leaf in plan.results:
        i = int(leaf.path)
        for d, source in sources(plan, leaf).items():
            order = np.argsort(np.where(source < 0, len(source), source), kind="stable")
            leaves[i] = jnp.take(leaves[i], order, d)
    return jax.tree.unflatten(tree, leaves)


def sources(plan: PlanData, leaf: LeafPlan) -> dict[int, np.ndarray]:
    """Axis of an input or result -> its index map."""
    nodes = grown_nodes(plan.grown_axes)
    return {
        d: source_map(axis_from(axis.structure, nodes))
        for d, axis in enumerate(leaf.axes)
        if axis is not None
    }
