"""From a plan to a map: one `LeafMap` a leaf, with random shares drawn on the host."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import numpy as np

from trainkit._core import validation
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import padded, uneven
from trainkit.growth.axes.queries import around, coordinates, labels, source_map
from trainkit.growth.axes.structures import axis_from, grown_nodes, numbers_in
from trainkit.growth.maps.growth_map import Draw, MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.maps.noise import noise_groups
from trainkit.growth.maps.shares import Shares, check_how, draw_shares
from trainkit.growth.plan.data import AxisPlan, How, LeafPlan, PlanData, copies


class _Drawn(NamedTuple):
    """A plan and its random shares; `nodes` and `shares` have one entry for each grown axis."""

    plan: PlanData
    nodes: list[Axis]
    shares: Shares
    how: How
    has_key: bool


def realise(plan: PlanData, key: jax.Array | int | None, how: How) -> MapData:
    """Draws the random values on the host; see `trainkit.growth.Plan.realise`."""
    key = None if key is None else validation.key_of("key", key)
    check_how(plan, key, how)
    with jax.ensure_compile_time_eval():  # the caller may be inside a jit
        shares = draw_shares(plan, key, how)
    nodes = grown_nodes(plan.grown_axes)
    drawn = _Drawn(plan, nodes, shares, how, key is not None)
    one = lambda leaf: _rms(plan, leaf, nodes) if how == "rms" else _leaf(drawn, leaf)
    leaves = {leaf.path: _with_rows(leaf, one(leaf)) for leaf in plan.leaves}
    noise = noise_groups(plan) if how == "noise" else {}
    rates = {path: rate(leaf) for path, leaf in leaves.items()}
    return MapData(
        leaves=leaves,
        origin=plan.origin,
        zeroed=plan.zeroed,
        proof="assumed" if how == "rms" else plan.proof,
        rates={path: x for path, x in rates.items() if x != 1.0},
        plan=plan,
        key=key,
        how=how,
        draws={leaf.path: Draw(i, noise.get(leaf.path)) for i, leaf in enumerate(plan.leaves)},
    )


def rate(leaf: LeafMap) -> float:
    """The factor on the learning rate under which a sign-like rule continues: the mean |c|."""
    axes = [float(np.mean(np.abs(a.weight))) for a in leaf.axes if a is not None]
    return abs(leaf.weight) * math.prod(axes)


def _with_rows(leaf: LeafPlan, found: LeafMap) -> LeafMap:
    """Adds the map of stacked layers. New rows are padding, so their moments start like those."""
    if leaf.layer is None or not leaf.layer.rows:
        return found
    source = np.array([-1 if new else old for old, new in leaf.layer.rows], np.int32)
    along = AxisMap(source, np.ones(len(source)), np.ones(len(source)))
    axes = tuple(along if d == leaf.layer.axis else a for d, a in enumerate(found.axes))
    return found._replace(axes=axes)


def _leaf(drawn: _Drawn, leaf: LeafPlan) -> LeafMap:
    matrix = sum(n > 1 for n in leaf.small) > 1
    found = [
        (None, True) if axis is None else _axis(drawn, axis, len(leaf.big), matrix)
        for axis in leaf.axes
    ]
    exact = all(is_exact for _, is_exact in found)
    return LeafMap(
        tuple(axis for axis, _ in found),
        leaf.weight,
        1.0 / leaf.weight,
        leaf.shift,
        exact and not leaf.calibrated,
    )


class _Factors(NamedTuple):
    """Factors of each new unit of an axis, whether its values are random, and whether the gradient
    factors are exact."""

    weight: np.ndarray
    gradient: np.ndarray
    anew: np.ndarray
    exact: bool = True


def _axis(drawn: _Drawn, planned: AxisPlan, rank: int, matrix: bool) -> tuple[AxisMap, bool]:
    """The map of one axis, and whether its gradient factors are exact."""
    axis = find(axis_from(planned.structure, drawn.nodes))
    source = source_map(axis)
    alive = source >= 0
    label, cells = labels(axis)
    label = label[np.where(alive, source, 0)]
    weight = np.asarray(planned.segments or (1.0,) * len(cells), np.float64)[label]
    count = copies(source, axis.small).astype(np.float64)
    found = _Factors(weight, 1.0 / (weight * count), np.zeros(len(source), bool))
    for n, node in enumerate(drawn.nodes):
        for place in coordinates(axis, node, of_big=True):
            splits = np.array([n in cell for cell in planned.splits], bool)[label] & (place >= 0)
            found = _shared(drawn, n, found, place, splits, matrix)
    # A share of 0 stays 0 in units with random values, and so does padding that must be 0.
    anew = found.anew & (found.weight != 0.0)
    kind = _fill(drawn.plan, planned, rank, drawn.has_key)
    empty = 0.0 if kind == "zero" else 1.0
    weight = np.where(alive, np.where(anew, 1.0, found.weight), empty)
    gradient = np.where(alive & ~anew, found.gradient, 1.0)
    source = np.where(anew, -1, source).astype(np.int32)
    fill = "random" if anew.any() else kind
    means = [drawn.nodes[n] for n in planned.means]
    sizes = around(axis, means[0]) if fill == "mean" and len(means) == 1 else None
    return AxisMap(source, weight, gradient, fill, sizes or (1, 1)), found.exact


def _shared(
    drawn: _Drawn,
    n: int,
    found: _Factors,
    place: np.ndarray,
    splits: np.ndarray,
    matrix: bool,
) -> _Factors:
    """Multiplies the factors by the shares of one grown axis, at one place in this axis.

    Args:
      n: the number of the grown axis.
      found: the factors so far.
      place: int[n′], the coordinate of each unit along the grown axis, −1 outside its segments.
      splits: bool[n′], the units along which this parameter is split.
      matrix: whether the leaf may get random values (it is not a vector).
    """
    grown, node, share = drawn.plan.grown_axes[n], drawn.nodes[n], drawn.shares[n]
    weight, gradient, anew, exact = found
    inside = place >= 0
    copied = inside & ~splits
    place = np.where(inside, place, 0)
    if uneven(grown.layout, grown.small, grown.big):
        # Units have different numbers of copies, so even shares are part of the map.
        assert node.source is not None
        number = copies(node.source, grown.small)[place]
        weight = np.where(splits, weight / number, weight)
        gradient = np.where(splits, gradient * number, gradient)
    if share is None:
        noised = drawn.how == "noise" and any(n in leaf.splits for leaf in drawn.plan.leaves)
        return _Factors(weight, gradient, anew, exact and not (noised and copied.any()))
    own = np.where(inside, share[place], 1.0)
    weight = np.where(splits, weight * own, weight)
    gradient = np.where(copied, gradient * own, gradient)
    exact = exact and not (copied.any() and not grown.clean)
    if drawn.how == "zero_out":
        fresh = inside & (share[place] == 0.0)
        exact = exact and not fresh.any()
        if matrix:
            anew = anew | (fresh & ~splits)
    return _Factors(weight, gradient, anew, bool(exact))


def _fill(
    plan: PlanData, axis: AxisPlan, rank: int, drawn: bool
) -> Literal["zero", "mean", "random"]:
    """What padding units of an axis hold. In vectors (norms, biases) it is the mean."""
    empty = {n for n in numbers_in(axis.structure) if padded(plan.grown_axes[n].layout)}
    if empty and empty <= set(axis.means):
        return "mean"
    if not empty or not empty <= set(axis.fresh):
        return "zero"
    if rank < 2 or all(plan.grown_axes[n].fill == "mean" for n in empty):
        return "mean"
    return "random" if drawn else "zero"


def _rms(plan: PlanData, leaf: LeafPlan, nodes: list[Axis]) -> LeafMap:
    """W′ = W[π] · √(d_in / d_in′), with d_in the size of the contracted axes.

    Gradient factors are those of an even growth, as a best guess.
    """
    grown: list[AxisMap | None] = []
    for planned in leaf.axes:
        if planned is None:
            grown.append(None)
            continue
        axis = find(axis_from(planned.structure, nodes))
        source = source_map(axis)
        weight = np.ones(len(source))
        for n in planned.reads:
            times = (coordinates(axis, nodes[n], of_big=True) >= 0).sum(0)
            weight *= np.sqrt(plan.grown_axes[n].small / plan.grown_axes[n].big) ** times
        gradient = 1.0 / (weight * copies(source, axis.small))
        grown.append(AxisMap(source.astype(np.int32), weight, gradient, "zero"))
    return LeafMap(tuple(grown), exact_gradient=False)
