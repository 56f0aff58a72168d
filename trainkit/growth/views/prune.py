"""Shrinking: structured pruning by the axes that a plan found, the inverse of growing.

Units that are one unit of the model (a column of one matrix, the row of the next, an entry of the
norm between) share an axis of the plan, so that one score and one choice hold for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.reading import coordinate, source_map
from trainkit.growth.axes.structures import axis_from, grown_nodes, numbers_in
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.apply import _vector, arithmetic, grow_leaf, small_tree
from trainkit.growth.maps.realise import realise
from trainkit.growth.plan.data import LeafPlan, Plan
from trainkit.growth.plan.leaf_map import AxisGrowth, LeafGrowth
from trainkit.growth.plan.validation import check_arrays

PyTree = Any
Score = Literal["magnitude", "gradient", "activation"]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which units of the big model are kept, and what that costs: the certificate of shrinking.

    Attributes:
      kept: for each axis of the plan the big model's units that are kept, in order (int64[small]);
        empty where copies are merged.
      scores: for each axis the score of each of the big model's units (float64[big]).
      lost: for each axis the share of the summed score that goes.
      parameters, size: (before, after) numbers of parameters and of bytes.
      maps: leaf -> `LeafGrowth` from the big to the small model, as `grow_opt_state` takes them.
      merged: whether copies are merged instead of units dropped.
    """

    kept: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]
    lost: tuple[float, ...]
    parameters: tuple[int, int]
    size: tuple[int, int]
    maps: Mapping[str, LeafGrowth]
    merged: bool
    plan: Plan = dataclasses.field(repr=False)

    def apply(self, params: PyTree) -> PyTree:
        """The small model's parameters."""
        _check(self.plan, params)
        if self.merged:
            return merge(self.plan, params)
        return _made(self.plan, params, lambda name, w: grow_leaf(w, self.maps[name], None))

    def change(
        self, small_fn: Callable, big_fn: Callable, params: PyTree, *inputs: PyTree
    ) -> float:
        """The largest change of an output, relative to the outputs' largest magnitude."""
        before = jax.tree.leaves(big_fn(params, *inputs))
        after = jax.tree.leaves(small_fn(self.apply(params), *inputs))
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


def selection(
    plan: Plan,
    params: PyTree,
    *,
    score: Score | Mapping[int, Any] = "magnitude",
    how: Literal["prune", "merge"] = "prune",
    grads: PyTree | None = None,
    activations: Mapping[int, Any] | None = None,
) -> Selection:
    """Scores the units of every axis of the plan and chooses those that stay.

    Args:
      plan: the growth from the small to the big model.
      params: the big model's parameters.
      score: "magnitude": Σ w² over all parameters of the unit, each leaf relative to its mean
        square (Li et al. 2017). "gradient": (Σ g·w)², the first-order change of the loss when the
        unit goes (Molchanov et al. 2019); needs `grads`. "activation": the mean square of what is
        read along the axis; needs `activations`. Or scores of your own: number of the axis -> one
        number a unit.
      how: "prune" drops the units with the lowest scores; "merge" undoes a growth: the copies of a
        unit become one again, exactly where they have grown and not been trained since.
      grads: the gradients of a loss, a tree like `params`.
      activations: from `trainkit.growth.activations`.

    Raises:
      GrowthError: parameters or gradients that are not the big model's.
      ValueError: an unknown score or way, or one that lacks what it needs.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit import growth
    >>> def mlp(p, x):
    ...     return jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> big = {"in": jnp.array([[3.0, 0.1, 2.0, 0.0]]), "out": jnp.ones((4, 1))}
    >>> small = {"in": jnp.zeros((1, 2)), "out": jnp.zeros((2, 1))}
    >>> p = growth.plan(mlp, mlp, small, big, jnp.ones((5, 1)))
    >>> p.shrink(big)["in"]
    Array([[3., 2.]], dtype=float32)
    """
    if how not in ("prune", "merge"):
        raise ValueError(f"how={how!r} must be 'prune' or 'merge'")
    _check(plan, params)
    scores = _scores(plan, params, score, grads, activations)
    kept = []
    for grown, s in zip(plan.grown_axes, scores, strict=True):
        order = np.argsort(-s, kind="stable")[: grown.small]
        kept.append(np.sort(order) if how == "prune" else np.zeros(0, np.int64))
    lost = [
        0.0 if how == "merge" or not s.sum() else float(np.delete(s, k).sum() / s.sum())
        for s, k in zip(scores, kept, strict=True)
    ]
    leaves = named_leaves(params)
    sides = (_big, plan.leaves), (_small, tuple(plan.old.values()))
    counts = [sum(int(np.prod(shape(leaf))) for leaf in side) for shape, side in sides]
    sizes = [
        sum(int(np.prod(shape(leaf))) * leaves[leaf.path].dtype.itemsize for leaf in side)
        for shape, side in sides
    ]
    return Selection(
        kept=tuple(kept),
        scores=tuple(scores),
        lost=tuple(lost),
        parameters=(counts[0], counts[1]),
        size=(sizes[0], sizes[1]),
        maps=_maps(plan, kept) if how == "prune" else _first_copies(plan),
        merged=how == "merge",
        plan=plan,
    )


def merge(plan: Plan, params: PyTree) -> PyTree:
    """The inverse of `plan.grow`: W[i] = mean over the copies j of i of W′[j] / c[j], where c is
    the factor of the even growth. Shares that are uneven, and noise that sums to zero, cancel."""
    maps = realise(plan, None, "even")

    def one(name, w):
        growth = maps[name]
        if all(a is None for a in growth.axes) and growth.weight == 1.0:
            return w
        exact = jnp.issubdtype(w.dtype, jnp.inexact)
        wide = arithmetic(w.dtype)
        out = w.astype(wide)
        if exact:
            out = (out + jnp.asarray(growth.shift, wide)) / jnp.asarray(growth.weight, wide)
        for d, axis in enumerate(growth.axes):
            if axis is None:
                continue
            n = int(axis.source.max()) + 1
            if not exact:
                first = np.unique(axis.source[axis.source >= 0], return_index=True)[1]
                out = jnp.take(out, np.flatnonzero(axis.source >= 0)[first], axis=d)
                continue
            count = np.bincount(axis.source[axis.source >= 0], minlength=n)
            share = np.where(axis.source < 0, 0.0, 1.0 / (axis.weight * count[axis.source]))
            moved = jnp.moveaxis(out * _vector(share, d, out.ndim, wide), d, 0)
            moved = jax.ops.segment_sum(moved, np.where(axis.source < 0, n, axis.source), n + 1)
            out = jnp.moveaxis(moved[:n], 0, d)
        if exact and growth.shift:
            out = out - jnp.asarray(growth.shift, wide)
        return out.astype(w.dtype)

    return _made(plan, params, one)


def _made(plan: Plan, params: PyTree, one: Callable[[str, jax.Array], jax.Array]) -> PyTree:
    """The small model's tree; new layers are left out."""
    if plan.depth is None:
        return jax.tree_util.tree_map_with_path(lambda at, w: one(path_name(at), w), params)
    values = named_leaves(params)
    old = plan.old.items()
    return small_tree(plan, {name: one(leaf.path, values[leaf.path]) for name, leaf in old})


def _big(leaf) -> tuple[int, ...]:
    return leaf.big


def _small(leaf) -> tuple[int, ...]:
    return leaf.small


def _check(plan: Plan, tree: PyTree, what: str = "params") -> None:
    check_arrays(tree, what)
    found = named_leaves(tree)
    for leaf in plan.leaves:
        have = getattr(found.get(leaf.path), "shape", "nothing")
        if have != leaf.big:
            raise GrowthError(
                f"{what}: {leaf.path} has shape {have}; the plan's big model has {leaf.big}",
                params=[leaf.path],
                hint="shrinking takes the big model's tree and gives the small one's",
            )
    if len(found) != len(plan.leaves):
        unknown = [path for path in found if path not in {leaf.path for leaf in plan.leaves}]
        raise GrowthError(f"{what}: the plan has no leaf {unknown[:3]}", params=unknown[:3])


def _numbers(leaf: LeafPlan) -> set[int]:
    return {n for axis in leaf.axes if axis for n in numbers_in(axis.structure)}


def _scores(plan: Plan, params, score, grads, activations) -> list[np.ndarray]:
    if isinstance(score, Mapping) or score == "activation":
        given = activations if score == "activation" else score
        if given is None:
            raise ValueError(
                "score='activation' needs activations=growth.activations(plan, small_fn, big_fn, "
                "params, *inputs)"
            )
        result = []
        for i, grown in enumerate(plan.grown_axes):
            if i not in given or np.shape(given[i]) != (grown.big,):
                found = np.shape(given[i]) if i in given else "none"
                raise GrowthError(
                    f"axis {i} of the plan needs {grown.big} scores, and got {found}",
                    axis=f"{grown.small} → {grown.big}",
                    hint="give one score a unit of the big model, or use score='gradient'",
                )
            result.append(np.asarray(given[i], np.float64))
        return result
    if score not in get_args(Score):
        raise ValueError(f"score={score!r}: choose one of {', '.join(get_args(Score))}, or a dict")
    if score == "gradient":
        if grads is None:
            raise ValueError("score='gradient' needs grads=…, the gradients of a loss at params")
        _check(plan, grads, "grads")
    leaves = named_leaves(params)
    slopes = named_leaves(grads) if score == "gradient" else {}
    totals = [np.zeros(grown.big) for grown in plan.grown_axes]
    nodes = grown_nodes(plan.grown_axes)
    for leaf in plan.leaves:
        w = np.asarray(leaves[leaf.path], np.float64)
        if score == "gradient":
            value = w * np.asarray(slopes[leaf.path], np.float64)
        else:
            value = np.square(w)
            value = value / (value.mean() or 1.0)
        for d, axis in enumerate(leaf.axes):
            if axis is None:
                continue
            along = value.sum(tuple(e for e in range(w.ndim) if e != d))
            if score == "magnitude":
                along = along * value.shape[d] / value.size
            for a in numbers_in(axis.structure):
                place = coordinate(axis_from(axis.structure, nodes), nodes[a], of_big=True)
                inside = place >= 0
                np.add.at(totals[a], place[inside], along[inside])
    return [np.square(t) if score == "gradient" else t for t in totals]


def _maps(plan: Plan, kept: Sequence[np.ndarray]) -> dict[str, LeafGrowth]:
    nodes = []
    for grown, keep in zip(plan.grown_axes, kept, strict=True):
        node = Axis(grown.big, grown.small)
        node.source = keep
        nodes.append(node)
    result = {}
    for leaf in plan.leaves:
        axes: list[AxisGrowth | None] = []
        for planned in leaf.axes:
            if planned is None or not numbers_in(planned.structure):
                axes.append(None)
                continue
            source = source_map(find(axis_from(planned.structure, nodes)))
            axes.append(AxisGrowth(source.astype(np.int32), *np.ones((2, len(source)))))
        if leaf.layer is not None and leaf.layer.rows:
            stay = np.array([i for i, (_, new) in enumerate(leaf.layer.rows) if not new], np.int32)
            axes[leaf.layer.axis] = AxisGrowth(stay, *np.ones((2, len(stay))))
        result[leaf.path] = LeafGrowth(tuple(axes), exact_gradient=False)
    return result


def _first_copies(plan: Plan) -> dict[str, LeafGrowth]:
    first = []
    for node in grown_nodes(plan.grown_axes):
        assert node.source is not None
        old, at = np.unique(node.source, return_index=True)
        first.append(at[old >= 0])
    return _maps(plan, first)
