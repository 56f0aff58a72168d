"""top_k along an axis that grows, and what reads its indices: see `choices.Pick`."""

from __future__ import annotations

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.index_maps import ANY, Group, move
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Match, Pick, Value, leaf_of
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import repeated
from trainkit.growth.axes.linear import ZERO, plus
from trainkit.growth.axes.reading import grown_leaves
from trainkit.growth.rules import elementwise, indexing, pieces
from trainkit.growth.rules.top_k import matches
from trainkit.growth.rules.top_k.operands import HINT, moved, numbers, refuse


def top_k_axes(pair: EquationPair) -> None:
    x = pair.ins[0]
    d = pair.notes["dim"] = pair.params.get("axis", len(x.axes) - 1) % len(x.axes)
    pair.check_same_params("k")
    axis, (k, k_big) = find(x.axes[d]), pair.both("k")
    m, rest = divmod(axis.big, axis.small)
    if rest:
        pair.fail(
            "top_k chooses among entries of an axis that grows to no multiple: some would have "
            "more copies than others",
            axes=(axis,),
            hint=f"grow it to a multiple of {axis.small}",
        )
    if k_big != m * k:
        copies = f", of which each is there {m} times: some copies would be chosen alone"
        pair.fail(
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
        pair.analysis.force(ranks, "repeat", pair)
    for i in range(2):
        pair.new_out(i, [ranks if e == d else a for e, a in enumerate(x.axes)])
    if m > 1:
        pair.outs[1].choice = Pick(axis, ranks, d)


def top_k_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    """The chosen are the old ones, each with all its copies side by side."""
    x, d, (out, index) = pair.ins[0], pair.notes["dim"], pair.outs
    scales.pin_exponents(x)
    scales.uniform(pair, x, d)
    if index.choice is None:
        groups = [Group((e,), (e,), ANY if e == d else None) for e in range(len(x.axes))]
        move(scales, pair, out, [(x, groups)])
        return scales.plain(index)
    axis = find(x.axes[d])
    if len(grown_leaves(axis)) != 1 or not np.array_equal(
        scales.source(axis), repeated(axis.small, axis.big)
    ):
        pair.fail(
            "`top_k` would see the copies of its entries apart from one another",
            axes=(axis,),
            hint="choose among the units of one plain axis (the experts), and return no result "
            "that has this axis",
        )
    scales.watch(x, [d])
    _tie(scales, x, leaf_of(axis))
    one = [Group((e,), (e,)) for e in range(len(x.axes)) if e != d]
    first = Group((d,), (d,), np.arange(out.small[d]), np.arange(out.small[d]).repeat(
        out.big[d] // out.small[d]) * (axis.big // axis.small))  # fmt: skip
    move(scales, pair, out, [(x, [*one, first])])
    return _silent(scales, index)


def _tie(scales: ScalePropagation, x: Value, leaf: Axis) -> None:
    """Notes the parameters by whose equal copies entries tie."""
    todo, seen = [x], set()
    while todo:
        v = todo.pop()
        if id(v) in seen or not any(leaf in grown_leaves(a) for a in v.axes):
            continue
        seen.add(id(v))
        if v.origin is not None:
            scales.ordered.setdefault(v.origin, set()).add(leaf.uid)
        elif id(v) in scales.producers:
            todo += scales.producers[id(v)].ins


def _silent(scales: ScalePropagation, value: Value) -> None:
    """An index has no scale."""
    scales.plain(value)
    value.scale[...] = None


def silent_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.outs:
        if isinstance(v.choice, Pick):
            _silent(scales, v)
        else:
            scales.plain(v)


def pinned_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.ins:
        if v.choice is None:
            scales.pin(pair, v)
    silent_scales(scales, pair)


# -- moved about, and compared with numbers ---------------------------------------------------


def _pick(pair: EquationPair) -> tuple[int, Pick]:
    """Which operand is the index, where there is one."""
    found = [(i, v.choice) for i, v in enumerate(pair.ins) if isinstance(v.choice, Pick)]
    if len(found) != 1 or found[0][1].part is not None:
        refuse(pair)
    return found[0]


def move_axes(pair: EquationPair) -> None:
    _, pick = _pick(pair)
    pair.analysis.rules[pair.name].axes(pair)
    pair.outs[0].choice = pick._replace(dim=moved(pair, pick.dim, pick.along))


def _number(v: Value) -> tuple[int, int] | None:
    """A constant that is one number in each program."""
    if v.const is None or v.const[0].uniform is None or v.const[1].uniform is None:
        return None
    return int(v.const[0].uniform), int(v.const[1].uniform)


def _in_copies(pair: EquationPair) -> tuple[int, Pick, int]:
    """The index, and the other operand, which is a number c in the one program and m·c in the
    other."""
    i, pick = _pick(pair)
    axis, number = find(pick.into), _number(pair.ins[1 - i])
    if number is None or number[1] != number[0] * (axis.big // axis.small):
        refuse(pair)
    return i, pick, number[0]


def less_axes(pair: EquationPair) -> None:
    """m·i + r < m·c where i < c."""
    i, _, _ = _in_copies(pair)
    if pair.name not in (("gt", "le") if i else ("lt", "ge")):
        refuse(pair)
    elementwise.axes(pair)


def shift_axes(pair: EquationPair) -> None:
    """(m·i + r) + m·c = m·(i + c) + r."""
    i, pick, number = _in_copies(pair)
    if pair.name == "sub" and i:
        refuse(pair)
    elementwise.axes(pair)
    pair.outs[0].choice = pick._replace(inside=pick.inside and number == 0)


def bound_axes(pair: EquationPair) -> None:
    """max, min, clamp: nothing happens to an index that lies within the bounds."""
    i, pick = _pick(pair)
    axis = find(pick.into)
    last = axis.small - 1, axis.big - 1
    lower = {"max": 1 - i, "clamp": 0}.get(pair.name)
    upper = {"min": 1 - i, "clamp": 2}.get(pair.name)
    low = (0, 0) if lower is None else _number(pair.ins[lower])
    high = last if upper is None else _number(pair.ins[upper])
    if not pick.inside or low is None or high is None:
        refuse(pair)
    if max(low) > 0 or high[0] < last[0] or high[1] < last[1]:
        refuse(pair)
    elementwise.axes(pair)
    pair.outs[0].choice = pick


def select_axes(pair: EquationPair) -> None:
    found = [v.choice for v in pair.ins[1:] if isinstance(v.choice, Pick)]
    same = {(find(p.into), find(p.along), p.dim, p.part) for p in found}
    if pair.ins[0].choice is not None or len(found) < len(pair.ins) - 1 or len(same) != 1:
        refuse(pair)
    elementwise.axes(pair)
    pair.outs[0].choice = found[0]._replace(inside=all(p.inside for p in found))


def convert_axes(pair: EquationPair) -> None:
    if not np.issubdtype(pair.params["new_dtype"], np.integer):
        refuse(pair)
    elementwise.axes(pair)
    pair.outs[0].choice = _pick(pair)[1]


def equal_axes(pair: EquationPair) -> None:
    """one_hot: an index beside the numbers of its axis."""
    i, pick = _pick(pair)
    other = pair.ins[1 - i]
    d = numbers(other, pick.into)
    if d is None or d == pick.dim:
        refuse(pair)
    pair.unify(other.axes[d], pick.into)
    other.choice = Pick(pick.into, pick.into, d)
    elementwise.axes(pair)
    axes = pick.along, pick.into
    pair.outs[0].choice = Match((pick.dim, d), axes, pair.name == "eq", True)


def slice_axes(pair: EquationPair) -> None:
    """The best of the chosen: the first ones, with all their copies."""
    _, pick = _pick(pair)
    x, d = pair.ins[0], pick.dim
    pieces.slice_axes(pair)
    kept = pair.outs[0].axes[d]
    if find(kept) is not find(x.axes[d]):
        m = find(x.axes[d]).big // find(x.axes[d]).small
        small, big = (ranges[d] for ranges in pair.notes["ranges"])
        if big != (m * small[0], m * small[1], 1) or small[2] != 1:
            pair.fail("some of the copies of what was chosen are taken alone",
                       axes=(pick.into,), hint=HINT)  # fmt: skip
        find(kept).ordered = True
        pair.analysis.force(kept, "repeat", pair)
        pick = pick._replace(along=kept)
    pair.outs[0].choice = pick


def concatenate_axes(pair: EquationPair) -> None:
    """Indices with several parts, one of which is a choice."""
    i, pick = _pick(pair)
    d = pair.params["dimension"]
    if d == pick.dim or any(not find(v.axes[d]).fixed for v in pair.ins):
        refuse(pair)
    pieces.concatenate_axes(pair)
    at = sum(v.small[d] for v in pair.ins[:i])
    pair.outs[0].choice = pick._replace(part=(d, at))


# -- indexing ---------------------------------------------------------------------------------


def _indexed(pair: EquationPair, key: str) -> tuple[Pick, int]:
    """The choice that an index holds, and the dimension of the operand that it is into."""
    x, index, *more = pair.ins
    pick, last = index.choice, len(index.axes) - 1
    if not isinstance(pick, Pick) or any(v.choice is not None for v in (x, *more)):
        refuse(pair)
    into = getattr(pair.params["dimension_numbers"], key)
    d, at = pick.part or (last, 0)
    if d != last or (pick.part is None and len(into) != 1):
        refuse(pair)
    return pick, int(into[at])


def gather_axes(pair: EquationPair) -> None:
    pick, d = _indexed(pair, "start_index_map")
    if d not in pair.params["dimension_numbers"].collapsed_slice_dims:
        refuse(pair)
    pair.unify(pair.ins[0].axes[d], pick.into)
    indexing.gather_axes(pair, [d])


def gather_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    """What is picked carries the split of the axis it is picked from: along the choices."""
    pick, d = _indexed(pair, "start_index_map")
    x, out = pair.ins[0], pair.outs[0]
    indexing.gather_scales(scales, pair)
    o = pair.notes["layout"].index(("index", pick.dim))
    _hand_over(scales, (x, d, pick.into), (out, o, pick.along))
    out.origin = x.origin  # its rows, which what follows reads as it would the whole


def scatter_axes(pair: EquationPair) -> None:
    pick, d = _indexed(pair, "scatter_dims_to_operand_dims")
    if d not in pair.params["dimension_numbers"].inserted_window_dims:
        refuse(pair)
    pair.unify(pair.ins[0].axes[d], pick.into)
    indexing.scatter_axes(pair, [d])


def scatter_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    pick, d = _indexed(pair, "scatter_dims_to_operand_dims")
    updates = pair.ins[2]
    o = pair.notes["layout"].index(("index", pick.dim))
    source = updates, o, pick.along
    indexing.scatter_scales(
        scales, pair, o, lambda spread: _hand_over(scales, source, (spread, d, pick.into))
    )


def _hand_over(
    scales: ScalePropagation, source: tuple[Value, int, Axis], to: tuple[Value, int, Axis]
) -> None:
    """The split that one value carries along an axis becomes another's along the axis whose copies
    are matched with its copies. (Over either, the shares of one unit's copies have mean 1.)"""
    (a, i, one), (b, j, other) = source, to
    one, other = leaf_of(one), leaf_of(other)
    found = [
        a.exponents.get((d, label, leaf.uid), ZERO)
        for d, label, leaf in scales.cells(a)
        if d == i and leaf is one
    ]
    for expr in found[1:]:
        scales.same_exponent(found[0], expr)
    for d, label, leaf in scales.cells(b):
        if d == j and leaf is other and found[0]:
            key = (d, label, leaf.uid)
            b.exponents[key] = plus(b.exponents.get(key, ZERO), found[0])


READERS: dict[str, Rule] = {
    **{
        name: Rule(move_axes, silent_scales)
        for name in ("transpose", "broadcast_in_dim", "squeeze", "reshape", "copy",
                     "stop_gradient")
    },
    **{name: Rule(less_axes, silent_scales) for name in ("lt", "ge", "gt", "le")},
    **{name: Rule(shift_axes, silent_scales) for name in ("add", "sub")},
    **{name: Rule(bound_axes, silent_scales) for name in ("max", "min", "clamp")},
    **{name: Rule(equal_axes, silent_scales) for name in ("eq", "ne")},
    "select_n": Rule(select_axes, pinned_scales),
    "convert_element_type": Rule(convert_axes, silent_scales),
    "slice": Rule(slice_axes, silent_scales),
    "concatenate": Rule(concatenate_axes, pinned_scales),
    "gather": Rule(gather_axes, gather_scales),
    **{name: Rule(scatter_axes, scatter_scales) for name in indexing.RULES if "scatter" in name},
}  # fmt: skip


def _rule(pair: EquationPair) -> Rule:
    """The rule of an equation of which operands are about choices."""
    pick = any(isinstance(v.choice, Pick) for v in pair.ins)
    match = any(isinstance(v.choice, Match) for v in pair.ins)
    found = (READERS if pick else matches.RULES).get(pair.name)
    if found is None or (pick and match):
        refuse(pair)
    return found


RULES: dict[str, Rule] = {
    "top_k": Rule(top_k_axes, top_k_scales),
    "choice": Rule(
        lambda pair: _rule(pair).axes(pair), lambda scales, pair: _rule(pair).scales(scales, pair)
    ),
}
