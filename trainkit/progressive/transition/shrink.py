"""Structured pruning from one stage's model to a narrower one, inside the compiled program.

`trainkit.growth.views.prune` chooses units on the host, from the values of the parameters. A stage
is compiled before these exist, so here the program itself computes scores and chosen units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.paths import named_leaves
from trainkit.growth.axes.queries import coordinates
from trainkit.growth.axes.structures import axis_from, grown_nodes, numbers_in
from trainkit.growth.errors import GrowthError
from trainkit.growth.operators import Operator
from trainkit.growth.plan.data import LeafPlan, PlanData
from trainkit.growth.planning import plan
from trainkit.progressive.transition.grow import grown
from trainkit.progressive.transition.state_growth import StageModel, StateGrowth
from trainkit.step.state import TrainState

PyTree = Any


def grown_or_shrunk(
    small: StageModel,
    big: StageModel,
    batch: PyTree,
    *,
    tx: optax.GradientTransformation,
    how: Operator,
    reset: bool,
    key: jax.Array,
) -> StateGrowth:
    """See `state_growth.Grow`; the later model may also be the smaller one."""
    sizes = [sum(x.size for x in jax.tree.leaves(side.state.params)) for side in (small, big)]
    if sizes[1] < sizes[0]:
        return shrunk(small, big, batch, tx=tx, reset=reset)
    return grown(small, big, batch, tx=tx, how=how, reset=reset, key=key)


def shrunk(
    before: StageModel,
    after: StageModel,
    batch: PyTree,
    *,
    tx: optax.GradientTransformation,
    reset: bool = False,
) -> StateGrowth:
    """The `StateGrowth` to a narrower model: each smaller axis keeps its units of largest score.

    The score of a unit is Σ w² over all its parameters, with each leaf divided by its mean square.
    Moments are gathered like their parameters. If a slot does not have the shape of its parameter
    (or with `reset`), the whole optimizer state is `tx.init(params)`.

    Raises:
      GrowthError: the two models differ in more than their widths.

    Reference: Li et al., Pruning Filters for Efficient ConvNets, 2017.
    """
    old, new = named_leaves(before.variables), named_leaves(after.variables)
    if list(old) != list(new):
        missing = next((name for name in old if name not in new), next(iter(new)))
        raise GrowthError(
            f"a stage with shrink=True removes units, not layers: {missing} has no counterpart",
            params=[missing],
            hint="keep the number of layers and make them narrower",
        )
    found = plan(after.outputs, before.outputs, after.variables, before.variables, batch)
    gathers = {leaf.path: _Gather(found, leaf) for leaf in found.leaves}

    def apply(state: TrainState) -> TrainState:
        tree = before._replace(state=state).variables
        kept = kept_units(found, tree)
        smaller = _gathered(tree, gathers, kept)
        params = smaller["params"]
        opt_state = tx.init(params)
        if not reset and _slots_match_params(tx, state):
            gather = lambda slot, name: gathers[f"params/{name}"](slot, kept)
            opt_state = optax.tree.map_params(tx, gather, state.opt_state, _names(state.params))
        return state.replace(params=params, model_state=smaller["model_state"], opt_state=opt_state)

    return StateGrowth(apply=apply, exact=False, text=_text(found))


def kept_units(found: PlanData, tree: PyTree) -> list[jax.Array]:
    """For each axis of the plan, the sorted int32 indices of the units that stay; traceable."""
    leaves, nodes = named_leaves(tree), grown_nodes(found.grown_axes)
    totals = [jnp.zeros(axis.big, jnp.float32) for axis in found.grown_axes]
    for leaf in found.leaves:
        if not leaf.path.startswith("params/"):
            continue
        square = jnp.square(jnp.abs(leaves[leaf.path]).astype(jnp.float32))
        mean = square.mean()
        square = square / jnp.where(mean == 0, 1.0, mean)
        for d, axis in enumerate(leaf.axes):
            if axis is None:
                continue
            along = square.mean(tuple(e for e in range(square.ndim) if e != d))
            for a in numbers_in(axis.structure):
                for place in coordinates(axis_from(axis.structure, nodes), nodes[a], of_big=True):
                    inside = np.flatnonzero(place >= 0)
                    totals[a] = totals[a].at[place[inside]].add(along[inside])
    return [
        jnp.sort(jnp.argsort(-score, stable=True)[: axis.small])
        for score, axis in zip(totals, found.grown_axes, strict=True)
    ]


class _Gather(NamedTuple):
    """Gathers one leaf of the smaller model from the larger one's, given the units that stay."""

    found: PlanData
    leaf: LeafPlan

    def __call__(self, leaf: jax.Array, kept: Sequence[jax.Array]) -> jax.Array:
        for d, axis in enumerate(self.leaf.axes):
            if axis is not None and numbers_in(axis.structure):
                leaf = jnp.take(leaf, _places(self.found, axis.structure, kept)[0], axis=d)
        return leaf


def _places(found: PlanData, structure: Any, kept: Sequence[jax.Array]) -> tuple[jax.Array, int]:
    """The indices of the units that stay along an axis of the larger model, and its size there."""
    kind, *rest = structure
    if kind == "fixed":
        return jnp.arange(rest[0], dtype=jnp.int32), rest[0]
    if kind == "leaf":
        return kept[rest[0]], found.grown_axes[rest[0]].big
    parts = [_places(found, part, kept) for part in rest]
    places, size = parts[0]
    for more, n in parts[1:]:
        if kind == "sum":
            places, size = jnp.concatenate([places, more + size]), size + n
        else:
            places, size = (places[:, None] * n + more).reshape(-1), size * n
    return places, size


def _gathered(tree: PyTree, gathers: dict[str, _Gather], kept: Sequence[jax.Array]) -> PyTree:
    names = _names(tree)
    return jax.tree.map(lambda name, leaf: gathers[name](leaf, kept), names, tree)


def _names(tree: PyTree) -> PyTree:
    return jax.tree.unflatten(jax.tree.structure(tree), list(named_leaves(tree)))


def _slots_match_params(tx: optax.GradientTransformation, state: TrainState) -> bool:
    """Whether every slot has the shape of its parameter."""
    same: list[bool] = []
    compare = lambda slot, param: same.append(slot.shape == param.shape)
    optax.tree.map_params(tx, compare, state.opt_state, state.params)
    return all(same)


def _text(found: PlanData) -> str:
    lines = ["Units with the smallest scores are removed (Σ w², each leaf relative to its mean):"]
    used = {
        leaf.path: {n for axis in leaf.axes if axis for n in numbers_in(axis.structure)}
        for leaf in found.leaves
    }
    for n, axis in enumerate(found.grown_axes):
        users = [path for path, numbers in used.items() if n in numbers]
        lines.append(f"{axis.big} → {axis.small}: {', '.join(users)}")
    return "\n".join(lines)
