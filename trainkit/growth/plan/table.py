"""A plan as plain text."""

from __future__ import annotations

import math

import numpy as np

from trainkit.growth.axes.axis import find, show
from trainkit.growth.axes.layouts import PADDED
from trainkit.growth.axes.reading import source_map
from trainkit.growth.axes.structures import atom_axes, atoms_in, axis_from
from trainkit.growth.plan.data import LeafPlan, Plan


def table(plan: Plan) -> str:
    """See `Plan.table`."""
    atoms = atom_axes(plan.atoms)
    names = [_name(i) for i in range(len(plan.atoms))]
    head = ("leaf", "shape", "axes", "map", "weight", "gradient", "bytes")
    rows = [head]
    before = after = 0
    for leaf in plan.leaves:
        small, big = _bytes(leaf)
        small = 0 if leaf.new else small
        before, after = before + small, after + big
        rows.append(
            (
                leaf.path,
                f"{_shape(leaf.small)} → {_shape(leaf.big)}"
                if leaf.small != leaf.big
                else _shape(leaf.small),
                " × ".join(_structure(s, names) if s else "·" for s in leaf.axes) or "scalar",
                _maps(plan, leaf),
                _factor(leaf) + (f" of w + {leaf.shift:g}" if leaf.shift else ""),
                _gradient(plan, leaf, atoms),
                f"{small:,} → {big:,}" if small != big else f"{small:,}",
            )
        )
    widths = [max(len(row[c]) for row in rows) for c in range(len(head))]
    lines = ["  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    lines.insert(1, "  ".join("-" * w for w in widths))
    lines.append("")
    split = {a for leaf in plan.leaves for axis in leaf.splits for cell in axis for a in cell}
    for i, (atom, axis) in enumerate(zip(plan.atoms, atoms, strict=True)):
        users = [
            f"{leaf.path}[{d}]"
            for leaf in plan.leaves
            for d, s in enumerate(leaf.axes)
            if s and i in atoms_in(s)
        ]
        if atom.layout in PADDED:
            how = "new units copy none"
            if atom.layout == "row mean":
                how += ", and hold the mean of the old ones in " + ", ".join(_holders(plan, i))
            if atom.visible:
                how += "; results have them behind their old entries, which are exact"
        elif i not in split:
            how = "copies stay even (no parameter reads this axis that could be split)"
        elif atom.clean:
            how = "read by parameters alone: uneven, noise and zero_out all possible"
        else:
            how = "also read otherwise: uneven and noise possible, zero_out falls back to even"
        lines.append(f"axis {names[i]}: {show(axis)}, {atom.layout}; {how}; {len(users)} uses: "
                     + ", ".join(users[:4]) + (" …" if len(users) > 4 else ""))  # fmt: skip
    if plan.depth is not None:
        added = sum(leaf.new for leaf in plan.leaves)
        lines.append(f"new layers by {plan.depth!r}: {added} leaves, and rows marked * of stacks")
    lines.append(
        f"{len(plan.leaves)} leaves, {before:,} → {after:,} bytes; proved over {plan.equations} "
        "equations"
    )
    return "\n".join(lines)


def _name(i: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[i % 26] + (str(i // 26) if i >= 26 else "")


def _holders(plan: Plan, atom: int) -> list[str]:
    held = [leaf.path for leaf in plan.leaves if any(atom in axis for axis in leaf.means)]
    return [*held[:3], f"{len(held) - 3} more"] if len(held) > 4 else held


def _structure(structure: tuple, names: list[str]) -> str:
    kind, *rest = structure
    if kind == "leaf":
        return names[rest[0]]
    if kind == "fixed":
        return str(rest[0])
    inner = [_structure(s, names) for s in rest]
    return "·".join(inner) if kind == "prod" else "[" + " | ".join(inner) + "]"


def _maps(plan: Plan, leaf: LeafPlan) -> str:
    if leaf.layer is not None and leaf.layer.rows:
        rows = " ".join(f"{row}*" if new else str(row) for row, new in leaf.layer.rows)
        fresh = leaf.layer.becomes
        return f"layers {rows}" + (f" (*: {fresh})" if fresh != "copy" else "")
    if leaf.layer is not None and leaf.layer.new:
        becomes = leaf.layer.becomes
        return f"new: {becomes}" + (f" of {leaf.source}" if becomes == "copy" else "")
    layouts = {plan.atoms[a].layout for s in leaf.axes if s for a in atoms_in(s)}
    return "+".join(sorted(layouts)) or "same"


def _factor(leaf: LeafPlan) -> str:
    if not any(leaf.segments):
        return f"{leaf.weight:.6g}"
    parts = [
        "[" + " ".join(f"{leaf.weight * s:.6g}" for s in axis) + "]"
        for axis in leaf.segments
        if axis
    ]
    return "×".join(parts)


def _gradient(plan: Plan, leaf: LeafPlan, atoms) -> str:
    copies = 1.0
    for s in leaf.axes:
        if s is not None:
            axis = find(axis_from(s, atoms))
            copies *= (source_map(axis) >= 0).sum() / axis.small
    factors = sorted(
        {
            1 / (leaf.weight * float(np.prod(c)) * copies)
            for c in np.array(np.meshgrid(*[axis or (1.0,) for axis in leaf.segments])).T.reshape(
                -1, max(1, len(leaf.segments))
            )
        }
        if leaf.segments
        else {1 / leaf.weight}
    )
    reads = any(cell for axis in leaf.splits for cell in axis)
    text = " ".join(f"{f:.6g}" for f in factors)
    return text + (" (reads)" if reads else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"


def _bytes(leaf: LeafPlan) -> tuple[int, int]:
    import ml_dtypes  # names such as bfloat16

    try:
        width = np.dtype(leaf.dtype).itemsize
    except TypeError:
        width = np.dtype(getattr(ml_dtypes, leaf.dtype, np.uint32)).itemsize
    return math.prod(leaf.small) * width, math.prod(leaf.big) * width
