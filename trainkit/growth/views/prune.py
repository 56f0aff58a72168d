"""Shrinking: structured pruning along the axes of a plan, the inverse of growth.

A unit of the model (a column of one matrix, a row of the next, an entry of the norm between) is one
index along an axis of the plan. It has one score, and is kept or removed in all parameters
together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.queries import source_map
from trainkit.growth.axes.structures import axis_from, grown_nodes, numbers_in
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf import grow_leaf, merged_leaf
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.maps.realise import realise
from trainkit.growth.plan.data import LeafPlan, Origin, PlanData
from trainkit.growth.plan.trees import small_tree
from trainkit.growth.views.kept_entries import kept_inputs, kept_nodes, kept_results
from trainkit.growth.views.scores import Score, check_big, scores_of

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Pruning:
    """The units of the big model that are kept, and measurements of the shrinking.

    Attributes:
      kept: for each axis of the plan, the big model's units that are kept, in order (int64[small]);
        empty if copies are merged.
      scores: for each axis, the score of each unit of the big model (float64[big]).
      lost: for each axis, the fraction of the total score that is removed.
      parameters, size: (before, after) numbers of parameters, and of bytes.
      map: from the big model's leaves to the small model's; moments use it. If copies are merged,
        moments are those of the first copy.
      merged: whether copies are merged; otherwise units are removed.
      plan: the plan of the growth.
    """

    kept: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]
    lost: tuple[float, ...]
    parameters: tuple[int, int]
    size: tuple[int, int]
    map: MapData
    merged: bool
    plan: PlanData = dataclasses.field(repr=False)

    def apply(self, params: PyTree) -> PyTree:
        """The small model's parameters; a `GrowthError` if `params` are not the big model's."""
        check_big(self.plan, params)
        if self.merged:
            return _merged(self.plan, params)
        return _made(self.plan, params, lambda name, w: grow_leaf(w, self.map.leaves[name]))

    def change(
        self, small_fn: Callable, big_fn: Callable, params: PyTree, *inputs: PyTree
    ) -> float:
        """The largest change of an output, relative to the outputs' largest magnitude.

        Args:
          small_fn, big_fn: the functions of the plan.
          params: the big model's parameters.
          *inputs: a batch of the big model. If it has more inputs than the small one, the small
            model gets the entries that are kept, and symbols get their old numbers. Of results that
            are larger, the entries that are kept are compared.

        Raises:
          GrowthError: these are not inputs of the big model, or a symbol among them is removed.
        """
        check_big(self.plan, params)
        units = _first_copies(self.plan) if self.merged else list(self.kept)
        fed = kept_inputs(self.plan, units, inputs)
        after = jax.tree.leaves(small_fn(self.apply(params), *fed))
        before = kept_results(self.plan, units, big_fn(params, *inputs), after)
        worst = max(float(jnp.abs(a - b).max()) for a, b in zip(before, after, strict=True))
        return worst / max(1e-30, *(float(jnp.abs(b).max()) for b in before))

    def __str__(self) -> str:
        before, after = self.parameters
        lines = [f"parameters {before:,} → {after:,}; bytes {self.size[0]:,} → {self.size[1]:,}"]
        for i, grown in enumerate(self.plan.grown_axes):
            what = (
                "copies merged" if self.merged else f"{100 * self.lost[i]:.2g} % of the score lost"
            )
            users = [leaf.path for leaf in self.plan.leaves if i in _numbers(leaf)]
            more = " …" if len(users) > 4 else ""
            lines.append(f"axis {grown.big} → {grown.small}: {what}; {', '.join(users[:4])}{more}")
        return "\n".join(lines)


def prune(
    plan: PlanData,
    params: PyTree,
    *,
    score: Score | Mapping[int, Any] = "magnitude",
    how: Literal["prune", "merge"] = "prune",
    grads: PyTree | None = None,
    activations: Mapping[int, Any] | None = None,
) -> Pruning:
    """Scores the units along every axis of the plan, and chooses those to keep.

    Args:
      plan: the growth from the small to the big model.
      params: the big model's parameters (arrays).
      score: "magnitude": Σ w² over all parameters of the unit, with each leaf divided by its mean
        square (Li et al., Pruning Filters for Efficient ConvNets, 2017). "gradient": (Σ g·w)², the
        first-order change of the loss without the unit (Molchanov et al., Importance Estimation for
        Neural Network Pruning, 2019); needs `grads`. "activation": the mean square of activations;
        needs `activations`. Or your own scores: number of the axis -> float[big].
      how: "prune" removes the units with the lowest scores. "merge" undoes a growth: the copies of
        a unit become one. This is exact if the model was not trained after growth.
      grads: gradients of a loss, a tree like `params`.
      activations: the result of `trainkit.growth.activations`.

    Returns:
      A `Pruning`. Its `apply(params)` returns the small model's parameters.

    Raises:
      GrowthError: parameters or gradients are not the big model's.
      ValueError: an unknown `score` or `how`, or a score without the arguments it needs.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit import growth
    >>> def mlp(p, x):
    ...     return jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> big = {"in": jnp.array([[3.0, 0.1, 2.0, 0.0]]), "out": jnp.ones((4, 1))}
    >>> small = {"in": jnp.zeros((1, 2)), "out": jnp.zeros((2, 1))}
    >>> plan = growth.plan(mlp, mlp, small, big, jnp.ones((5, 1)))
    >>> growth.prune(plan, big).apply(big)["in"]
    Array([[3., 2.]], dtype=float32)
    """
    if how not in ("prune", "merge"):
        raise ValueError(f"how={how!r} must be 'prune' or 'merge'")
    check_big(plan, params)
    scores = scores_of(plan, params, score, grads, activations)
    kept = []
    for grown, s in zip(plan.grown_axes, scores, strict=True):
        order = np.argsort(-s, kind="stable")[: grown.small]
        kept.append(np.sort(order) if how == "prune" else np.zeros(0, np.int64))
    lost = [
        0.0 if how == "merge" or not s.sum() else float(np.delete(s, k).sum() / s.sum())
        for s, k in zip(scores, kept, strict=True)
    ]
    width = {name: leaf.dtype.itemsize for name, leaf in named_leaves(params).items()}
    count = lambda shape: int(np.prod(shape))
    old = plan.old.values()
    return Pruning(
        kept=tuple(kept),
        scores=tuple(scores),
        lost=tuple(lost),
        parameters=(sum(count(x.big) for x in plan.leaves), sum(count(x.small) for x in old)),
        size=(
            sum(count(x.big) * width[x.path] for x in plan.leaves),
            sum(count(x.small) * width[x.path] for x in old),
        ),
        map=_map(plan, kept if how == "prune" else _first_copies(plan)),
        merged=how == "merge",
        plan=plan,
    )


def _numbers(leaf: LeafPlan) -> set[int]:
    return {n for axis in leaf.axes if axis for n in numbers_in(axis.structure)}


def _merged(plan: PlanData, params: PyTree) -> PyTree:
    """The inverse of growth: W[i] = mean over the copies j of i of W′[j] / c[j], where c is the
    factor of an even growth. Uneven shares and zero-sum noise cancel."""
    leaves = realise(plan, None, "even").leaves
    one = lambda leaf, w: merged_leaf(w, leaves[leaf.path], leaf.small)
    return _made(plan, params, lambda name, w: one(plan.old[name], w))


def _made(plan: PlanData, params: PyTree, one: Callable[[str, jax.Array], jax.Array]) -> PyTree:
    """The small model's tree, made leaf by leaf; leaves of new layers are dropped."""
    if plan.depth is None and plan.trees is None:
        return jax.tree_util.tree_map_with_path(lambda at, w: one(path_name(at), w), params)
    values = named_leaves(params)
    return small_tree(plan, {name: one(name, values[x.path]) for name, x in plan.old.items()})


def _map(plan: PlanData, kept: Sequence[np.ndarray]) -> MapData:
    """The map from the big model's leaves to the small model's, which selects the kept units."""
    nodes = kept_nodes(plan, kept)
    origin = {name: Origin(leaf.path) for name, leaf in plan.old.items()}
    return MapData(
        leaves={name: _leaf(leaf, nodes) for name, leaf in plan.old.items()},
        origin={} if plan.depth is None else origin,
    )


def _leaf(leaf: LeafPlan, nodes: list[Axis]) -> LeafMap:
    axes: list[AxisMap | None] = []
    for planned in leaf.axes:
        if planned is None or not numbers_in(planned.structure):
            axes.append(None)
            continue
        source = source_map(find(axis_from(planned.structure, nodes)))
        axes.append(AxisMap(source.astype(np.int32), *np.ones((2, len(source)))))
    if leaf.layer is not None and leaf.layer.rows:
        stay = np.array([i for i, (_, new) in enumerate(leaf.layer.rows) if not new], np.int32)
        axes[leaf.layer.axis] = AxisMap(stay, *np.ones((2, len(stay))))
    return LeafMap(tuple(axes), exact_gradient=False)


def _first_copies(plan: PlanData) -> list[np.ndarray]:
    first = []
    for node in grown_nodes(plan.grown_axes):
        assert node.source is not None
        old, at = np.unique(node.source, return_index=True)
        first.append(at[old >= 0])
    return first
