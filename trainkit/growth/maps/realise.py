"""From a plan to numbers: one `LeafGrowth` a leaf, with what is random drawn."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import numpy as np

from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import PADDED
from trainkit.growth.axes.reading import coordinate, labels, source_map
from trainkit.growth.axes.structures import axis_from, grown_nodes, numbers_in
from trainkit.growth.maps.rms import rms_growth
from trainkit.growth.plan.data import AxisPlan, LeafPlan, Plan, Symmetry, copies
from trainkit.growth.plan.leaf_map import AxisGrowth, LeafGrowth
from trainkit.growth.plan.validation import check_key


def realise(plan: Plan, key: jax.Array | None, symmetry: Symmetry) -> dict[str, LeafGrowth]:
    """See `Plan.realise`."""
    with jax.ensure_compile_time_eval():  # the caller may be inside a jit
        shares = draw_shares(plan, key, symmetry)
    nodes = grown_nodes(plan.grown_axes)
    if symmetry == "rms":
        found = {leaf.path: rms_growth(plan, leaf, nodes) for leaf in plan.leaves}
    else:
        drawn = key is not None
        found = {
            leaf.path: _leaf(plan, leaf, nodes, shares, symmetry, drawn) for leaf in plan.leaves
        }
    return {leaf.path: _with_rows(leaf, found[leaf.path]) for leaf in plan.leaves}


def _with_rows(leaf: LeafPlan, growth: LeafGrowth) -> LeafGrowth:
    """Rows of stacked layers: new ones have no history, so that moments start as for new units."""
    if leaf.layer is None or not leaf.layer.rows:
        return growth
    source = np.array([-1 if new else old for old, new in leaf.layer.rows], np.int32)
    along = AxisGrowth(source, np.ones(len(source)), np.ones(len(source)))
    axes = tuple(along if d == leaf.layer.axis else a for d, a in enumerate(growth.axes))
    return growth._replace(axes=axes)


def check_symmetry(plan: Plan, key: jax.Array | None, symmetry: str) -> None:
    if symmetry not in get_args(Symmetry):
        raise ValueError(f"symmetry={symmetry!r}: choose one of {', '.join(get_args(Symmetry))}")
    if isinstance(key, jax.core.Tracer):
        raise ValueError(
            "the maps of a growth are drawn on the host, so the key must be known: close over it "
            "instead of passing it through jit"
        )
    check_key(key)
    if plan.grown_axes and symmetry not in ("even", "rms") and key is None:
        raise ValueError(
            f"symmetry={symmetry!r} draws random numbers: give key=jax.random.key(0), or take "
            'symmetry="even"'
        )


def draw_shares(plan: Plan, key: jax.Array | None, symmetry: Symmetry) -> list[np.ndarray | None]:
    """For each grown axis ρ̃, the share of each copy relative to an even one (mean 1 over a unit's
    copies); `None` where copies stay even."""
    check_symmetry(plan, key, symmetry)
    split = set().union(*(leaf.splits for leaf in plan.leaves))
    result: list[np.ndarray | None] = [None] * len(plan.grown_axes)
    if symmetry not in ("uneven", "zero_out"):
        return result
    for i, (grown, node) in enumerate(
        zip(plan.grown_axes, grown_nodes(plan.grown_axes), strict=True)
    ):
        source = node.source
        assert source is not None
        if i not in split or (source < 0).any():
            continue
        count = copies(source, grown.small)
        if symmetry == "zero_out":
            if grown.clean:
                # The first copy of each unit is read as before, the others not at all.
                first = np.zeros(len(source))
                first[np.unique(source, return_index=True)[1]] = 1.0
                result[i] = first * count
            continue
        assert key is not None
        seed = jax.random.key_data(jax.random.fold_in(key, i)).reshape(-1)
        drawn = np.random.default_rng([int(x) for x in np.asarray(seed)]).uniform(
            0.5, 1.5, len(source)
        )
        total = np.bincount(source, drawn, minlength=grown.small)
        result[i] = np.where(count > 1, drawn * count / total[source], 1.0)
    return result


def _leaf(
    plan: Plan,
    leaf: LeafPlan,
    nodes: list[Axis],
    shares: list[np.ndarray | None],
    symmetry: Symmetry,
    has_key: bool,
) -> LeafGrowth:
    exact = True
    maps: list[AxisGrowth | None] = []
    matrix = sum(n > 1 for n in leaf.small) > 1
    for planned in leaf.axes:
        if planned is None:
            maps.append(None)
            continue
        axis = find(axis_from(planned.structure, nodes))
        source = source_map(axis)
        alive = source >= 0
        old = np.where(alive, source, 0)
        label = labels(axis)[0][old]
        segments = planned.segments or (1.0,) * (int(label.max()) + 1)
        weight = np.asarray(segments, np.float64)[label]
        drawn_anew = np.zeros(len(source), bool)
        count = copies(source, axis.small).astype(np.float64)
        gradient = 1.0 / (weight * count)
        for a, (grown, node) in enumerate(zip(plan.grown_axes, nodes, strict=True)):
            place = coordinate(axis, node, of_big=True)
            inside = place >= 0
            if not inside.any():
                continue
            place = np.where(inside, place, 0)
            carries = np.array([a in cell for cell in planned.splits], bool)[label] & inside
            if grown.big % grown.small and grown.layout not in PADDED:
                # Units differ in their number of copies: the split is part of the even map.
                assert node.source is not None
                number = copies(node.source, grown.small)[place]
                weight = np.where(carries, weight / number, weight)
                gradient = np.where(carries, gradient * number, gradient)
            twice = any(cell.count(node) > 1 for cell in labels(axis)[1])
            exact &= shares[a] is None or not twice  # its factors meet twice on one axis
            share = shares[a]
            if share is None:
                if symmetry == "noise" and not carries.all() and _noised(plan, a):
                    exact &= not (inside & ~carries).any()
                continue
            drawn = np.where(inside, share[place], 1.0)
            weight = np.where(carries, weight * drawn, weight)
            gradient = np.where(inside & ~carries, gradient * drawn, gradient)
            if (inside & ~carries).any() and not grown.clean:
                exact = False
            if symmetry == "zero_out":
                fresh = inside & (share[place] == 0.0)
                if matrix:
                    drawn_anew |= fresh & ~carries
                exact &= not fresh.any()
        # What must be 0 is so too beside units whose weights are drawn anew.
        kind = _fill(plan, planned, len(leaf.big), has_key)
        empty = 0.0 if kind == "zero" else 1.0
        weight = np.where(alive, np.where(drawn_anew, 1.0, weight), empty)
        gradient = np.where(alive & ~drawn_anew, gradient, 1.0)
        source = np.where(drawn_anew, -1, source)
        maps.append(
            AxisGrowth(
                source.astype(np.int32),
                weight,
                gradient,
                "random" if drawn_anew.any() else kind,
            )
        )
    return LeafGrowth(
        tuple(maps), leaf.weight, 1.0 / leaf.weight, leaf.shift, exact and not leaf.calibrated
    )


def _fill(plan: Plan, axis: AxisPlan, rank: int, drawn: bool) -> Literal["zero", "mean", "random"]:
    """What the units of an axis that copy none hold. Vectors (norms, biases) take the mean."""
    empty = {n for n in numbers_in(axis.structure) if plan.grown_axes[n].layout in PADDED}
    if empty and empty <= set(axis.means):
        return "mean"
    if not empty or not empty <= set(axis.fresh):
        return "zero"
    if rank < 2 or all(plan.grown_axes[n].fill == "mean" for n in empty):
        return "mean"
    return "random" if drawn else "zero"


def _noised(plan: Plan, number: int) -> bool:
    return any(number in leaf.splits for leaf in plan.leaves)


def noise_groups(plan: Plan) -> dict[str, tuple[int, np.ndarray, dict[int, np.ndarray]]]:
    """For each leaf an axis over whose copies noise may be added that sums to zero: (axis, for each
    new unit of the axis the group it belongs to, −1 for none; for each other axis whose copies must
    get the same noise, the old units)."""
    nodes = grown_nodes(plan.grown_axes)
    result: dict[str, tuple[int, np.ndarray, dict[int, np.ndarray]]] = {}
    for leaf in plan.leaves:
        for d, planned in enumerate(leaf.axes):
            if planned is None or not any(planned.splits):
                continue
            axis = find(axis_from(planned.structure, nodes))
            source = source_map(axis)
            label = labels(axis)[0][np.where(source < 0, 0, source)]
            group = np.full(len(source), -1)
            for cell_label, cell in enumerate(planned.splits):
                if not cell:
                    continue
                # Copies that differ in split leaves alone sum to zero: fix all other coordinates.
                at = (label == cell_label) & (source >= 0)
                keys = [source[at]]
                for a, node in enumerate(nodes):
                    place = coordinate(axis, node, of_big=True)
                    if a not in cell and (place[at] >= 0).any():
                        keys.append(place[at])
                _, ids = np.unique(np.stack(keys), axis=1, return_inverse=True)
                group[at] = ids.reshape(-1) + group.max() + 1
            same = {
                e: source_map(find(axis_from(other.structure, nodes)))
                for e, other in enumerate(leaf.axes)
                if other and other.ordered and e != d
            }
            result.setdefault(leaf.path, (d, group, same))
    return result
