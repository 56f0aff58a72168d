"""The choice of layouts for a joint program: requests of equations, and layouts that fit tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from trainkit.growth.analysis.constants import compare, no_duplicate
from trainkit.growth.analysis.joint_program import (
    Analysis,
    EquationPair,
    JointProgram,
    all_pairs,
)
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find, segments
from trainkit.growth.axes.layouts import COPIES, Layout, Layouts, index_map, worded
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.primitives import traits

SEARCHED: tuple[Layout, ...] = ("repeat", "tile", "stride", "stride end")
# With these, old entries of a table may come first, as in a list of numbers; what is computed from
# new ones must be read with 0.
OLD_FIRST: tuple[Layout, ...] = (*SEARCHED, "append")
Asked = tuple[Axis, Layout, EquationPair | None]


def choose_layouts(
    joint: JointProgram, searched: tuple[Layout, ...] = SEARCHED
) -> Layouts | Conflict:
    """A layout for every leaf that grows.

    The default is "repeat" (copies of a unit are neighbours). Equations may request another layout,
    and a constant table may fit only with another one of those that are `searched`.
    """
    names: dict[int, Layout] = {
        leaf.uid: "repeat" for v in joint.all_values() for leaf in _leaves(v)
    }
    bound = asked_layouts(joint.analysis, [*_unreached(joint), *joint.analysis.forced])
    if isinstance(bound, Conflict):
        return bound
    layouts, fixed = Layouts({**names, **bound}), set(bound)
    for v, pair in _constants(joint):
        moving = _varying(v)
        free = [leaf for leaf in moving if leaf.uid not in fixed]
        fixed.update(leaf.uid for leaf in moving)
        fitting = _fitting(v, layouts, free, searched)
        if fitting is None:
            return no_duplicate(joint.analysis, v, pair)
        layouts = fitting
    return layouts


def asked_layouts(analysis: Analysis, asked: Iterable[Asked]) -> dict[int, Layout] | Conflict:
    """The layouts that equations or the user request: uid of the leaf -> layout.

    Returns a conflict if two different layouts are requested for one leaf.
    """
    bound: dict[int, Layout] = {}
    for axis, layout, pair in asked:
        axis = _last_part(axis) if layout == "append" else find(axis)
        if (wrong := _misplaced(analysis, axis, layout, pair, bound)) is not None:
            return wrong
        # "append" gives way to the same places: another layout is never tried for those.
        bound[axis.uid] = bound.get(axis.uid, layout) if isinstance(layout, str) else layout
    return bound


def _last_part(axis: Axis) -> Axis:
    """The last segment, if no other one grows: with new entries behind it, old ones keep their
    index. Otherwise the axis itself."""
    *others, last = segments(axis) or [find(axis)]
    return find(last) if all(part.fixed for part in others) else find(axis)


def _leaves(v: Value) -> list[Axis]:
    return list(dict.fromkeys(leaf for a in v.axes for leaf in grown_leaves(a)))


def _varying(v: Value) -> list[Axis]:
    """The leaves that grow of a constant, along axes on which its elements differ."""
    assert v.const is not None
    shapes = zip(*(c.core_shape for c in v.const), strict=True)
    axes = [a for a, sizes in zip(v.axes, shapes, strict=True) if sizes != (1, 1)]
    return list(dict.fromkeys(leaf for a in axes for leaf in grown_leaves(a)))


def _unreached(joint: JointProgram) -> Iterator[Asked]:
    """Parameter axes that no equation uses at this input length; old entries keep their index.

    In front of what is used, they keep it from the end.
    """
    used = {find(axis).uid for axis, layout, _ in joint.analysis.forced if layout != "append"}
    used |= {
        leaf.uid
        for pair in all_pairs(joint.pairs)
        if not (traits(pair).same or traits(pair).move == "whole")
        for v in (*pair.outs, *(() if traits(pair).move == "part" else pair.ins))
        for leaf in _leaves(v)
    }
    used |= {leaf.uid for v in joint.outs for leaf in _leaves(v)}
    in_front = {find(axis).uid for axis in joint.analysis.in_front}
    for _, value in joint.analysis.params:
        for leaf in _leaves(value):
            if leaf.uid not in used:
                at_end = leaf.uid in in_front and leaf.small
                places = tuple(range(leaf.big - leaf.small, leaf.big))
                yield leaf, places if at_end else "append", None


def _misplaced(
    analysis: Analysis,
    axis: Axis,
    layout: Layout,
    pair: EquationPair | None,
    bound: dict[int, Layout],
) -> Conflict | None:
    """Why an axis cannot have the requested layout, or `None`."""
    if axis.kind != "leaf":
        return analysis.conflict(
            f"a layout ({worded(layout)}) was requested for an axis that is composed of several "
            "axes",
            "layouts",
            (axis,),
            pair,
            alone=True,
            hint=_of_parts(axis, layout),
        )
    other = bound.get(axis.uid, layout)
    same = {other, layout} == {"append", tuple(range(axis.small))}
    if other != layout and not same:
        return analysis.conflict(
            "two different layouts are required for one axis: "
            f"{worded(other)} and {worded(layout)}",
            "layouts",
            (axis,),
            pair,
            alone=True,
        )
    return None


def _of_parts(axis: Axis, layout: Layout) -> str:
    """What to do about an axis of several parts for which a layout was requested."""
    if layout == "tile" or layout[:1] == (COPIES,):
        return "look rows up in a table that is one parameter: its copies go across the parts"
    if axis.kind == "sum":
        return "concatenate the part that grows last: then old entries keep their index"
    return "grow the factors of the axis one by one"


def _constants(joint: JointProgram) -> list[tuple[Value, EquationPair]]:
    """The constant tables with an axis that grows, each with the first equation that uses it."""
    tables: dict[int, tuple[Value, EquationPair]] = {}
    for pair in all_pairs(joint.pairs):
        for v in [*pair.ins, *pair.outs, *(o for b in pair.bodies for o in b.outs)]:
            if v.const is None or v.choice is not None or not _leaves(v):
                continue
            if any(c.uniform is None for c in v.const):
                tables.setdefault(id(v), (v, pair))
    return list(tables.values())


def _fitting(
    v: Value, layouts: Layouts, free: list[Axis], searched: tuple[Layout, ...]
) -> Layouts | None:
    """The layouts under which a constant is a duplicate; changes those of `free` leaves alone."""
    for option in itertools.product(searched, repeat=len(free)):
        if any(
            index_map(name, x.small, x.big) is None for x, name in zip(free, option, strict=True)
        ):
            continue
        changed = layouts.but({x.uid: name for x, name in zip(free, option, strict=True)})
        scale = compare(v, changed)
        if scale is None:
            continue
        # A table that fits another layout only with a scale fits by accident.
        if set(option) <= {"repeat"} or all(not e for e in scale.flat):
            return changed
    return None
