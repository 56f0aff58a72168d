"""The text table of a plan."""

from __future__ import annotations

import itertools
import math

import numpy as np

from trainkit.growth.axes.axis import Axis, find, show
from trainkit.growth.axes.layouts import padded, worded
from trainkit.growth.axes.queries import source_map
from trainkit.growth.axes.structures import axis_from, grown_nodes, numbers_in
from trainkit.growth.plan.data import AxisPlan, LeafPlan, PlanData


def table(plan: PlanData) -> str:
    """See `PlanData.table`."""
    nodes = grown_nodes(plan.grown_axes)
    names = [_name(i) for i in range(len(nodes))]
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
                " × ".join(_structure(a, names) for a in leaf.axes) or "scalar",
                _maps(plan, leaf),
                _factor(leaf) + (f" of w + {leaf.shift:g}" if leaf.shift else ""),
                _gradient(leaf, nodes),
                f"{small:,} → {big:,}" if small != big else f"{small:,}",
            )
        )
    widths = [max(len(row[c]) for row in rows) for c in range(len(head))]
    lines = ["  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    lines.insert(1, "  ".join("-" * w for w in widths))
    lines.append("")
    split = set().union(*(leaf.splits for leaf in plan.leaves))
    for i, (grown, node) in enumerate(zip(plan.grown_axes, nodes, strict=True)):
        users = [
            f"{leaf.path}[{d}]"
            for leaf in plan.leaves
            for d, axis in enumerate(leaf.axes)
            if axis and i in numbers_in(axis.structure)
        ]
        if padded(grown.layout):
            how = "new units are padding units"
            if grown.layout == "row mean":
                how += ", with the mean of the old units in " + ", ".join(_holders(plan, i))
            if grown.visible:
                beside = "follow" if grown.layout == "append" else "stand between"
                how += f"; in results they {beside} the old entries, which are exact"
        elif i not in split:
            how = "copies stay even (no parameter can be split over this axis)"
        elif grown.clean:
            how = "contracted with parameters alone: uneven, noise and zero_out possible"
        else:
            how = "not only contracted: uneven and noise possible, zero_out becomes even"
        shown = worded(grown.layout)
        lines.append(f"axis {names[i]}: {show(node)}, {shown}; {how}; {len(users)} uses: "
                     + ", ".join(users[:4]) + (" …" if len(users) > 4 else ""))  # fmt: skip
    if plan.depth is not None:
        added = sum(leaf.new for leaf in plan.leaves)
        lines.append(f"new layers by {plan.depth!r}: {added} leaves, and stack rows marked *")
    lines.append(
        f"{len(plan.leaves)} leaves, {before:,} → {after:,} bytes; proved over {plan.equations} "
        "equations"
    )
    return "\n".join(lines)


def _name(i: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[i % 26] + (str(i // 26) if i >= 26 else "")


def _holders(plan: PlanData, number: int) -> list[str]:
    held = [x.path for x in plan.leaves if any(a and number in a.means for a in x.axes)]
    return [*held[:3], f"{len(held) - 3} more"] if len(held) > 4 else held


def _structure(axis: AxisPlan | None, names: list[str]) -> str:
    return "·" if axis is None else _parts(axis.structure, names)


def _parts(structure: tuple, names: list[str]) -> str:
    kind, *rest = structure
    if kind == "leaf":
        return names[rest[0]]
    if kind == "fixed":
        return str(rest[0])
    inner = [_parts(s, names) for s in rest]
    return "·".join(inner) if kind == "prod" else "[" + " | ".join(inner) + "]"


def _maps(plan: PlanData, leaf: LeafPlan) -> str:
    if leaf.layer is not None and leaf.layer.rows:
        rows = " ".join(f"{row}*" if new else str(row) for row, new in leaf.layer.rows)
        fresh = leaf.layer.becomes
        return f"layers {rows}" + (f" (*: {fresh})" if fresh != "copy" else "")
    if leaf.layer is not None and leaf.layer.new:
        becomes = leaf.layer.becomes
        return f"new: {becomes}" + (f" of {leaf.source}" if becomes == "copy" else "")
    numbers = {n for axis in leaf.axes if axis for n in numbers_in(axis.structure)}
    layouts = {worded(plan.grown_axes[n].layout) for n in numbers}
    return "+".join(sorted(layouts)) or "same"


def _factor(leaf: LeafPlan) -> str:
    parts = [
        "[" + " ".join(f"{leaf.weight * s:.6g}" for s in axis.segments) + "]"
        for axis in leaf.axes
        if axis and axis.segments
    ]
    return "×".join(parts) or f"{leaf.weight:.6g}"


def _gradient(leaf: LeafPlan, nodes: list[Axis]) -> str:
    copies = 1.0
    for axis in leaf.axes:
        if axis is not None:
            node = find(axis_from(axis.structure, nodes))
            copies *= (source_map(node) >= 0).sum() / node.small
    segments = [axis.segments for axis in leaf.axes if axis and axis.segments]
    weights = (leaf.weight * math.prod(choice) for choice in itertools.product(*segments))
    text = " ".join(f"{f:.6g}" for f in sorted({1 / (w * copies) for w in weights}))
    return text + (" (reads)" if leaf.splits else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"


def _bytes(leaf: LeafPlan) -> tuple[int, int]:
    import ml_dtypes  # names such as bfloat16

    try:
        width = np.dtype(leaf.dtype).itemsize
    except TypeError:
        width = np.dtype(getattr(ml_dtypes, leaf.dtype, np.uint32)).itemsize
    return math.prod(leaf.small) * width, math.prod(leaf.big) * width
