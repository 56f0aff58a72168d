"""Entries of inputs and results that stay when the units of a model's axes are removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import path_name
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.queries import source_map
from trainkit.growth.axes.structures import axis_from
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import LeafPlan, PlanData

PyTree = Any
Units = Sequence[np.ndarray]  # for each axis of the plan, the big model's units that stay


def kept_nodes(plan: PlanData, units: Units) -> list[Axis]:
    """The axes of a plan, from the big model to the small one."""
    nodes = []
    for grown, keep in zip(plan.grown_axes, units, strict=True):
        node = Axis(grown.big, grown.small)
        node.source = keep
        nodes.append(node)
    return nodes


def kept_inputs(plan: PlanData, units: Units, inputs: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
    """The small model's inputs, from those of the big one.

    Raises:
      GrowthError: an input has other sizes, or a symbol is removed.
    """
    leaves, symbols = {leaf.path: leaf for leaf in plan.inputs}, dict(plan.symbols)

    def one(path: tuple[Any, ...], x: Any) -> Any:
        name = path_name(path)
        if name in symbols:
            x = _old_symbols(plan, units, name, x, symbols[name])
        leaf = leaves.get(name)
        if leaf is None:
            return x
        if jnp.shape(x) != leaf.big:
            raise GrowthError(
                f"input {name} has shape {jnp.shape(x)}; the plan's big model takes {leaf.big}",
                hint="pass inputs of the big model; plan.new_inputs(…) makes them of old ones",
            )
        return _taken(plan, units, leaf, x)

    return jax.tree_util.tree_map_with_path(one, inputs)


def kept_results(plan: PlanData, units: Units, results: PyTree, like: Sequence[Any]) -> list[Any]:
    """The entries of the big model's results that the small model's results `like` have."""
    leaves = jax.tree.leaves(results)
    known = {int(leaf.path): leaf for leaf in plan.results}
    kept = []
    for i, (x, small) in enumerate(zip(leaves, like, strict=True)):
        if i in known:
            x = _taken(plan, units, known[i], x)
        for d, (n, m) in enumerate(zip(small.shape, x.shape, strict=True)):
            if n != m:
                x = jnp.take(x, _units_of(plan, units, n, m, f"axis {d} of result {i}"), d)
        kept.append(x)
    return kept


def _taken(plan: PlanData, units: Units, leaf: LeafPlan, x: Any) -> Any:
    nodes = kept_nodes(plan, units)
    for d, axis in enumerate(leaf.axes):
        if axis is not None:
            x = jnp.take(x, source_map(find(axis_from(axis.structure, nodes))), d)
    return x


def _units_of(
    plan: PlanData, units: Units, n: int, m: int, what: str, places: Any = None
) -> np.ndarray:
    """The units that stay of the one axis with these sizes (and places)."""
    found = [
        keep
        for grown, keep in zip(plan.grown_axes, units, strict=True)
        if (grown.small, grown.big) == (n, m) and places in (None, grown.layout)
    ]
    if not found or any(not np.array_equal(found[0], other) for other in found[1:]):
        raise GrowthError(
            f"{what} goes from {m} to {n}, and {len(found) or 'none'} of the plan's axes do, which "
            "keep different units",
            axis=f"{n} → {m}",
            hint="give these axes the same scores: prune(plan, params, score={number: scores, …})",
        )
    return found[0]


def _old_symbols(plan: PlanData, units: Units, name: str, x: Any, places: tuple[int, ...]) -> Any:
    sizes = {grown.big for grown in plan.grown_axes if grown.layout == places}
    if not sizes:  # no table grows
        keep = np.asarray(places)
    else:
        keep = _units_of(plan, units, len(places), max(sizes), f"the table of {name}", places)
    old = np.full(max(int(keep.max()), int(jnp.max(x))) + 1, -1)
    old[keep] = np.arange(len(keep))
    result = old[np.asarray(x)]
    if (result < 0).any():
        gone = int(np.asarray(x)[result < 0].flat[0])
        raise GrowthError(
            f"input {name} has the symbol {gone}, whose row is removed",
            hint="measure the change on inputs without removed symbols; `kept` says which stay",
        )
    return jnp.asarray(result, x.dtype)
