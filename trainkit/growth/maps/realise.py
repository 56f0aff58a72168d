"""From a plan to numbers: one `LeafGrowth` a leaf, with what is random drawn."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import numpy as np

from trainkit.growth.axes.axis import find
from trainkit.growth.axes.layouts import PADDED
from trainkit.growth.axes.reading import coordinate, labels, source_map
from trainkit.growth.axes.structures import atom_axes, atoms_in, axis_from
from trainkit.growth.maps.rms import rms_growth
from trainkit.growth.plan.data import LeafPlan, Plan, Symmetry, copies
from trainkit.growth.plan.leaf_map import AxisGrowth, LeafGrowth
from trainkit.growth.plan.validation import check_key


def realise(plan: Plan, key: jax.Array | None, symmetry: Symmetry) -> dict[str, LeafGrowth]:
    """See `Plan.realise`."""
    with jax.ensure_compile_time_eval():  # the caller may be inside a jit
        shares = draw_shares(plan, key, symmetry)
    axes = atom_axes(plan.atoms)
    if symmetry == "rms":
        found = {leaf.path: rms_growth(plan, leaf, axes) for leaf in plan.leaves}
    else:
        drawn = key is not None
        found = {
            leaf.path: _leaf(plan, leaf, axes, shares, symmetry, drawn) for leaf in plan.leaves
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
    if plan.atoms and symmetry not in ("even", "rms") and key is None:
        raise ValueError(
            f"symmetry={symmetry!r} draws random numbers: give key=jax.random.key(0), or take "
            'symmetry="even"'
        )


def draw_shares(plan: Plan, key: jax.Array | None, symmetry: Symmetry) -> list[np.ndarray | None]:
    """For each atom ρ̃, the share of each copy relative to an even one (mean 1 over a unit's
    copies); `None` where copies stay even."""
    check_symmetry(plan, key, symmetry)
    split = {a for leaf in plan.leaves for axis in leaf.splits for cell in axis for a in cell}
    result: list[np.ndarray | None] = [None] * len(plan.atoms)
    if symmetry not in ("uneven", "zero_out"):
        return result
    for i, (atom, axis) in enumerate(zip(plan.atoms, atom_axes(plan.atoms), strict=True)):
        source = axis.source
        assert source is not None
        if i not in split or (source < 0).any():
            continue
        count = copies(source, atom.small)
        if symmetry == "zero_out":
            if atom.clean:
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
        total = np.bincount(source, drawn, minlength=atom.small)
        result[i] = np.where(count > 1, drawn * count / total[source], 1.0)
    return result


def _leaf(
    plan: Plan,
    leaf: LeafPlan,
    atoms,
    shares: list[np.ndarray | None],
    symmetry: Symmetry,
    has_key: bool,
) -> LeafGrowth:
    exact = True
    grown: list[AxisGrowth | None] = []
    matrix = sum(n > 1 for n in leaf.small) > 1
    for d, (structure, scales, split) in enumerate(
        zip(leaf.axes, leaf.segments, leaf.splits, strict=True)
    ):
        if structure is None:
            grown.append(None)
            continue
        axis = find(axis_from(structure, atoms))
        source = source_map(axis)
        alive = source >= 0
        old = np.where(alive, source, 0)
        label = labels(axis)[0][old]
        weight = np.asarray(scales or (1.0,) * (int(label.max()) + 1))[label].astype(np.float64)
        drawn_anew = np.zeros(len(source), bool)
        count = copies(source, axis.small).astype(np.float64)
        gradient = 1.0 / (weight * count)
        for a, (atom, node) in enumerate(zip(plan.atoms, atoms, strict=True)):
            place = coordinate(axis, node, of_big=True)
            inside = place >= 0
            if not inside.any():
                continue
            place = np.where(inside, place, 0)
            carries = np.array([a in cell for cell in split], bool)[label] & inside
            if atom.big % atom.small and atom.layout not in PADDED:
                # Units differ in their number of copies: the split is part of the even map.
                assert node.source is not None
                number = copies(node.source, atom.small)[place]
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
            if (inside & ~carries).any() and not atom.clean:
                exact = False
            if symmetry == "zero_out":
                fresh = inside & (share[place] == 0.0)
                if matrix:
                    drawn_anew |= fresh & ~carries
                exact &= not fresh.any()
        # What must be 0 is so too beside units whose weights are drawn anew.
        kind = _fill(plan, leaf, d, has_key)
        empty = 0.0 if kind == "zero" else 1.0
        weight = np.where(alive, np.where(drawn_anew, 1.0, weight), empty)
        gradient = np.where(alive & ~drawn_anew, gradient, 1.0)
        source = np.where(drawn_anew, -1, source)
        grown.append(
            AxisGrowth(
                source.astype(np.int32),
                weight,
                gradient,
                "random" if drawn_anew.any() else kind,
            )
        )
    return LeafGrowth(
        tuple(grown), leaf.weight, 1.0 / leaf.weight, leaf.shift, exact and not leaf.calibrated
    )


def _fill(plan: Plan, leaf: LeafPlan, d: int, drawn: bool) -> Literal["zero", "mean", "random"]:
    """What the units of an axis that copy none hold. Vectors (norms, biases) take the mean."""
    empty = {a for a in atoms_in(leaf.axes[d]) if plan.atoms[a].layout in PADDED}
    if empty and leaf.means and empty <= set(leaf.means[d]):
        return "mean"
    if not empty or not leaf.fresh or not empty <= set(leaf.fresh[d]):
        return "zero"
    if len(leaf.big) < 2 or all(plan.atoms[a].fill == "mean" for a in empty):
        return "mean"
    return "random" if drawn else "zero"


def _noised(plan: Plan, atom: int) -> bool:
    return any(atom in cell for leaf in plan.leaves for axis in leaf.splits for cell in axis)


def noise_groups(plan: Plan) -> dict[str, tuple[int, np.ndarray, dict[int, np.ndarray]]]:
    """For each leaf an axis over whose copies noise may be added that sums to zero: (axis, for each
    new unit of the axis the group it belongs to, −1 for none; for each other axis whose copies must
    get the same noise, the old units)."""
    atoms = atom_axes(plan.atoms)
    result: dict[str, tuple[int, np.ndarray, dict[int, np.ndarray]]] = {}
    for leaf in plan.leaves:
        for d, (structure, split) in enumerate(zip(leaf.axes, leaf.splits, strict=True)):
            if structure is None or not any(split):
                continue
            axis = find(axis_from(structure, atoms))
            source = source_map(axis)
            label = labels(axis)[0][np.where(source < 0, 0, source)]
            group = np.full(len(source), -1)
            for cell_label, cell in enumerate(split):
                if not cell:
                    continue
                # Copies that differ in split leaves alone sum to zero: fix all other coordinates.
                at = (label == cell_label) & (source >= 0)
                keys = [source[at]]
                for a, node in enumerate(atoms):
                    place = coordinate(axis, node, of_big=True)
                    if a not in cell and (place[at] >= 0).any():
                        keys.append(place[at])
                _, ids = np.unique(np.stack(keys), axis=1, return_inverse=True)
                group[at] = ids.reshape(-1) + group.max() + 1
            same = {
                e: source_map(find(axis_from(leaf.axes[e], atoms)))
                for e, held in enumerate(leaf.ordered)
                if held and e != d
            }
            result.setdefault(leaf.path, (d, group, same))
    return result
