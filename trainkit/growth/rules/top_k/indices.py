"""top_k along an axis that grows, and what reads its indices: see `choice.Pick`."""

from __future__ import annotations

import numpy as np

from trainkit.growth.analysis.index_maps import ANY, Group, move
from trainkit.growth.analysis.indices import HINT, Match, Pick, leaf_of, moved, numbers, refuse
from trainkit.growth.analysis.joint_program import Joint, Rule, Value
from trainkit.growth.analysis.layout_search import repeated
from trainkit.growth.analysis.scales import Flow
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.linear import ZERO, plus
from trainkit.growth.axes.reading import grown_leaves
from trainkit.growth.rules import elementwise, indexing, pieces
from trainkit.growth.rules.top_k import matches


def top_k_axes(joint: Joint) -> None:
    x = joint.ins[0]
    d = joint.notes["dim"] = joint.params.get("axis", len(x.axes) - 1) % len(x.axes)
    joint.same_told("k")
    axis, (k, k_big) = find(x.axes[d]), joint.both("k")
    m, rest = divmod(axis.big, axis.small)
    if rest:
        joint.fail(
            "top_k chooses among entries of an axis that grows to no multiple: some would have "
            "more copies than others",
            axes=(axis,),
            hint=f"grow it to a multiple of {axis.small}",
        )
    if k_big != m * k:
        copies = f", of which each is there {m} times: some copies would be chosen alone"
        joint.fail(
            f"top_k keeps {k} of {axis.small} and {k_big} of {axis.big}" + copies * (m > 1),
            axes=(axis,),
            hint=f"choose {m} times as many, k={m * k}; or keep this axis (the experts, the "
            "vocabulary) as it is"
            if m > 1
            else "give both models the same k",
        )
    ranks = Axis(k, k_big)
    if m > 1:
        ranks.ordered = True
        joint.analysis.force(ranks, "repeat", joint)
    for i in range(2):
        joint.new_out(i, [ranks if e == d else a for e, a in enumerate(x.axes)])
    if m > 1:
        joint.outs[1].choice = Pick(axis, ranks, d)


def top_k_flow(flow: Flow, joint: Joint) -> None:
    """The chosen are the old ones, each with all its copies side by side."""
    x, d, (out, index) = joint.ins[0], joint.notes["dim"], joint.outs
    flow.carries_nothing(x)
    flow.uniform(joint, x, d)
    if index.choice is None:
        groups = [Group((e,), (e,), ANY if e == d else None) for e in range(len(x.axes))]
        move(flow, joint, out, [(x, groups)])
        return flow.plain(index)
    axis = find(x.axes[d])
    if len(grown_leaves(axis)) != 1 or not np.array_equal(
        flow.source(axis), repeated(axis.small, axis.big)
    ):
        joint.fail(
            "`top_k` would see the copies of its entries apart from one another",
            axes=(axis,),
            hint="choose among the units of one plain axis (the experts), and return no result "
            "that has this axis",
        )
    flow.watch(x, [d])
    _tie(flow, x, leaf_of(axis))
    one = [Group((e,), (e,)) for e in range(len(x.axes)) if e != d]
    first = Group((d,), (d,), np.arange(out.small[d]), np.arange(out.small[d]).repeat(
        out.big[d] // out.small[d]) * (axis.big // axis.small))  # fmt: skip
    move(flow, joint, out, [(x, [*one, first])])
    return _silent(flow, index)


def _tie(flow: Flow, x: Value, leaf: Axis) -> None:
    """Notes the parameters by whose equal copies entries tie."""
    todo, seen = [x], set()
    while todo:
        v = todo.pop()
        if id(v) in seen or not any(leaf in grown_leaves(a) for a in v.axes):
            continue
        seen.add(id(v))
        if v.origin is not None:
            flow.ordered.setdefault(v.origin, set()).add(leaf.uid)
        elif id(v) in flow.makers:
            todo += flow.makers[id(v)].ins


def _silent(flow: Flow, value: Value) -> None:
    """An index has no scale."""
    flow.plain(value)
    value.scale[...] = None


def silent_flow(flow: Flow, joint: Joint) -> None:
    for v in joint.outs:
        if isinstance(v.choice, Pick):
            _silent(flow, v)
        else:
            flow.plain(v)


def pinned_flow(flow: Flow, joint: Joint) -> None:
    for v in joint.ins:
        if v.choice is None:
            flow.pin(joint, v)
    silent_flow(flow, joint)


# -- moved about, and compared with numbers ---------------------------------------------------


def _pick(joint: Joint) -> tuple[int, Pick]:
    """Which operand is the index, where there is one."""
    found = [(i, v.choice) for i, v in enumerate(joint.ins) if isinstance(v.choice, Pick)]
    if len(found) != 1 or found[0][1].part is not None:
        refuse(joint)
    return found[0]


def move_axes(joint: Joint) -> None:
    _, pick = _pick(joint)
    joint.analysis.rules[joint.name].axes(joint)
    joint.outs[0].choice = pick._replace(dim=moved(joint, pick.dim, pick.along))


def _number(v: Value) -> tuple[int, int] | None:
    """A constant that is one number in each program."""
    if v.const is None or v.const[0].uniform is None or v.const[1].uniform is None:
        return None
    return int(v.const[0].uniform), int(v.const[1].uniform)


def _in_copies(joint: Joint) -> tuple[int, Pick, int]:
    """The index, and the other operand, which is a number c in the one program and m·c in the
    other."""
    i, pick = _pick(joint)
    axis, number = find(pick.into), _number(joint.ins[1 - i])
    if number is None or number[1] != number[0] * (axis.big // axis.small):
        refuse(joint)
    return i, pick, number[0]


def less_axes(joint: Joint) -> None:
    """m·i + r < m·c where i < c."""
    i, _, _ = _in_copies(joint)
    if joint.name not in (("gt", "le") if i else ("lt", "ge")):
        refuse(joint)
    elementwise.axes(joint)


def shift_axes(joint: Joint) -> None:
    """(m·i + r) + m·c = m·(i + c) + r."""
    i, pick, number = _in_copies(joint)
    if joint.name == "sub" and i:
        refuse(joint)
    elementwise.axes(joint)
    joint.outs[0].choice = pick._replace(inside=pick.inside and number == 0)


def bound_axes(joint: Joint) -> None:
    """max, min, clamp: nothing happens to an index that lies within the bounds."""
    i, pick = _pick(joint)
    axis = find(pick.into)
    last = axis.small - 1, axis.big - 1
    lower = {"max": 1 - i, "clamp": 0}.get(joint.name)
    upper = {"min": 1 - i, "clamp": 2}.get(joint.name)
    low = (0, 0) if lower is None else _number(joint.ins[lower])
    high = last if upper is None else _number(joint.ins[upper])
    if not pick.inside or low is None or high is None:
        refuse(joint)
    if max(low) > 0 or high[0] < last[0] or high[1] < last[1]:
        refuse(joint)
    elementwise.axes(joint)
    joint.outs[0].choice = pick


def select_axes(joint: Joint) -> None:
    found = [v.choice for v in joint.ins[1:] if isinstance(v.choice, Pick)]
    same = {(find(p.into), find(p.along), p.dim, p.part) for p in found}
    if joint.ins[0].choice is not None or len(found) < len(joint.ins) - 1 or len(same) != 1:
        refuse(joint)
    elementwise.axes(joint)
    joint.outs[0].choice = found[0]._replace(inside=all(p.inside for p in found))


def convert_axes(joint: Joint) -> None:
    if not np.issubdtype(joint.params["new_dtype"], np.integer):
        refuse(joint)
    elementwise.axes(joint)
    joint.outs[0].choice = _pick(joint)[1]


def equal_axes(joint: Joint) -> None:
    """one_hot: an index beside the numbers of its axis."""
    i, pick = _pick(joint)
    other = joint.ins[1 - i]
    d = numbers(other, pick.into)
    if d is None or d == pick.dim:
        refuse(joint)
    joint.unify(other.axes[d], pick.into)
    other.choice = Pick(pick.into, pick.into, d)
    elementwise.axes(joint)
    axes = pick.along, pick.into
    joint.outs[0].choice = Match((pick.dim, d), axes, joint.name == "eq", True)


def slice_axes(joint: Joint) -> None:
    """The best of the chosen: the first ones, with all their copies."""
    _, pick = _pick(joint)
    x, d = joint.ins[0], pick.dim
    pieces.slice_axes(joint)
    kept = joint.outs[0].axes[d]
    if find(kept) is not find(x.axes[d]):
        m = find(x.axes[d]).big // find(x.axes[d]).small
        small, big = (ranges[d] for ranges in joint.notes["ranges"])
        if big != (m * small[0], m * small[1], 1) or small[2] != 1:
            joint.fail("some of the copies of what was chosen are taken alone",
                       axes=(pick.into,), hint=HINT)  # fmt: skip
        find(kept).ordered = True
        joint.analysis.force(kept, "repeat", joint)
        pick = pick._replace(along=kept)
    joint.outs[0].choice = pick


def concatenate_axes(joint: Joint) -> None:
    """Indices with several parts, one of which is a choice."""
    i, pick = _pick(joint)
    d = joint.params["dimension"]
    if d == pick.dim or any(not find(v.axes[d]).fixed for v in joint.ins):
        refuse(joint)
    pieces.concatenate_axes(joint)
    at = sum(v.small[d] for v in joint.ins[:i])
    joint.outs[0].choice = pick._replace(part=(d, at))


# -- indexing ---------------------------------------------------------------------------------


def _indexed(joint: Joint, key: str) -> tuple[Pick, int]:
    """The choice that an index holds, and the dimension of the operand that it is into."""
    x, index, *more = joint.ins
    pick, last = index.choice, len(index.axes) - 1
    if not isinstance(pick, Pick) or any(v.choice is not None for v in (x, *more)):
        refuse(joint)
    into = getattr(joint.params["dimension_numbers"], key)
    d, at = pick.part or (last, 0)
    if d != last or (pick.part is None and len(into) != 1):
        refuse(joint)
    return pick, int(into[at])


def gather_axes(joint: Joint) -> None:
    pick, d = _indexed(joint, "start_index_map")
    if d not in joint.params["dimension_numbers"].collapsed_slice_dims:
        refuse(joint)
    joint.unify(joint.ins[0].axes[d], pick.into)
    indexing.gather_axes(joint, [d])


def gather_flow(flow: Flow, joint: Joint) -> None:
    """What is picked carries the split of the axis it is picked from: along the choices."""
    pick, d = _indexed(joint, "start_index_map")
    x, out = joint.ins[0], joint.outs[0]
    indexing.gather_flow(flow, joint)
    o = joint.notes["layout"].index(("index", pick.dim))
    _hand_over(flow, (x, d, pick.into), (out, o, pick.along))
    out.origin = x.origin  # its rows, which what follows reads as it would the whole


def scatter_axes(joint: Joint) -> None:
    pick, d = _indexed(joint, "scatter_dims_to_operand_dims")
    if d not in joint.params["dimension_numbers"].inserted_window_dims:
        refuse(joint)
    joint.unify(joint.ins[0].axes[d], pick.into)
    indexing.scatter_axes(joint, [d])


def scatter_flow(flow: Flow, joint: Joint) -> None:
    pick, d = _indexed(joint, "scatter_dims_to_operand_dims")
    updates = joint.ins[2]
    o = joint.notes["layout"].index(("index", pick.dim))
    source = updates, o, pick.along
    indexing.scatter_flow(
        flow, joint, o, lambda spread: _hand_over(flow, source, (spread, d, pick.into))
    )


def _hand_over(flow: Flow, source: tuple[Value, int, Axis], to: tuple[Value, int, Axis]) -> None:
    """The split that one value carries along an axis becomes another's along the axis whose copies
    are matched with its copies. (Over either, the shares of one unit's copies have mean 1.)"""
    (a, i, one), (b, j, other) = source, to
    one, other = leaf_of(one), leaf_of(other)
    found = [
        a.carries.get((d, label, leaf.uid), ZERO)
        for d, label, leaf in flow.cells(a)
        if d == i and leaf is one
    ]
    for expr in found[1:]:
        flow.same_split(found[0], expr)
    for d, label, leaf in flow.cells(b):
        if d == j and leaf is other and found[0]:
            key = (d, label, leaf.uid)
            b.carries[key] = plus(b.carries.get(key, ZERO), found[0])


READERS: dict[str, Rule] = {
    **{
        name: Rule(move_axes, silent_flow)
        for name in ("transpose", "broadcast_in_dim", "squeeze", "expand_dims", "reshape", "copy",
                     "stop_gradient")
    },
    **{name: Rule(less_axes, silent_flow) for name in ("lt", "ge", "gt", "le")},
    **{name: Rule(shift_axes, silent_flow) for name in ("add", "sub")},
    **{name: Rule(bound_axes, silent_flow) for name in ("max", "min", "clamp")},
    **{name: Rule(equal_axes, silent_flow) for name in ("eq", "ne")},
    "select_n": Rule(select_axes, pinned_flow),
    "convert_element_type": Rule(convert_axes, silent_flow),
    "slice": Rule(slice_axes, silent_flow),
    "concatenate": Rule(concatenate_axes, pinned_flow),
    "gather": Rule(gather_axes, gather_flow),
    **{name: Rule(scatter_axes, scatter_flow) for name in indexing.RULES if "scatter" in name},
}  # fmt: skip


def _rule(joint: Joint) -> Rule:
    """The rule of an equation of which operands are about choices."""
    pick = any(isinstance(v.choice, Pick) for v in joint.ins)
    match = any(isinstance(v.choice, Match) for v in joint.ins)
    found = (READERS if pick else matches.RULES).get(joint.name)
    if found is None or (pick and match):
        refuse(joint)
    return found


RULES: dict[str, Rule] = {
    "top_k": Rule(top_k_axes, top_k_flow),
    "choice": Rule(
        lambda joint: _rule(joint).axes(joint), lambda flow, joint: _rule(joint).flow(flow, joint)
    ),
}
