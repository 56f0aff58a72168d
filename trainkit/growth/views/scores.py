"""Importance scores: one number for each unit of the big model, along every axis of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from trainkit._core.paths import named_leaves
from trainkit.growth.axes.queries import coordinates
from trainkit.growth.axes.structures import axis_from, grown_nodes, numbers_in
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import PlanData
from trainkit.growth.plan.validation import check_arrays

PyTree = Any
Score = Literal["magnitude", "gradient", "activation"]


def scores_of(
    plan: PlanData,
    params: PyTree,
    score: Score | Mapping[int, Any],
    grads: PyTree | None,
    activations: Mapping[int, Any] | None,
) -> list[np.ndarray]:
    """The scores along each axis, float64[big]; see `trainkit.growth.prune`."""
    if isinstance(score, Mapping) or score == "activation":
        given = activations if score == "activation" else score
        if given is None:
            raise ValueError(
                "score='activation' needs activations=growth.activations(plan, small_fn, big_fn, "
                "params, *inputs)"
            )
        assert isinstance(given, Mapping)
        return _given(plan, given)
    if score not in get_args(Score):
        raise ValueError(f"score={score!r}: choose one of {', '.join(get_args(Score))}, or a dict")
    if score == "magnitude":
        return _summed(plan, params, None)
    if grads is None:
        raise ValueError("score='gradient' needs grads=…, the gradients of a loss at params")
    check_big(plan, grads, "grads")
    return [np.square(total) for total in _summed(plan, params, grads)]


def _given(plan: PlanData, given: Mapping[int, Any]) -> list[np.ndarray]:
    result = []
    for i, grown in enumerate(plan.grown_axes):
        if i not in given or np.shape(given[i]) != (grown.big,):
            found = np.shape(given[i]) if i in given else "none"
            raise GrowthError(
                f"axis {i} of the plan needs scores of shape ({grown.big},), and got {found}",
                axis=f"{grown.small} → {grown.big}",
                hint="pass one score for each unit of the big model, or use score='gradient'",
            )
        result.append(np.asarray(given[i], np.float64))
    return result


def _summed(plan: PlanData, params: PyTree, grads: PyTree | None) -> list[np.ndarray]:
    """Σ g·w over each unit; without gradients Σ w², with each leaf divided by its mean square."""
    leaves = named_leaves(params)
    slopes = {} if grads is None else named_leaves(grads)
    totals = [np.zeros(grown.big) for grown in plan.grown_axes]
    nodes = grown_nodes(plan.grown_axes)
    for leaf in plan.leaves:
        w = np.asarray(leaves[leaf.path], np.float64)
        if grads is None:
            value = np.square(w)
            value = value / (value.mean() or 1.0)
        else:
            value = w * np.asarray(slopes[leaf.path], np.float64)
        for d, axis in enumerate(leaf.axes):
            if axis is None:
                continue
            along = value.sum(tuple(e for e in range(w.ndim) if e != d))
            if grads is None:
                along = along * value.shape[d] / value.size
            for n in numbers_in(axis.structure):
                for place in coordinates(axis_from(axis.structure, nodes), nodes[n], of_big=True):
                    np.add.at(totals[n], place[place >= 0], along[place >= 0])
    return totals


def check_big(plan: PlanData, tree: PyTree, what: str = "params") -> None:
    """Raises a `GrowthError` if a tree does not have the big model's leaves and shapes."""
    check_arrays(tree, what)
    found = named_leaves(tree)
    for leaf in plan.leaves:
        have = getattr(found.get(leaf.path), "shape", "nothing")
        if have != leaf.big:
            raise GrowthError(
                f"{what}: {leaf.path} has shape {have}; the plan's big model has {leaf.big}",
                params=[leaf.path],
                hint="pass the big model's tree (shrinking returns the small model's)",
            )
    if len(found) != len(plan.leaves):
        unknown = [path for path in found if path not in {leaf.path for leaf in plan.leaves}]
        raise GrowthError(f"{what}: the plan has no leaf {unknown[:3]}", params=unknown[:3])
