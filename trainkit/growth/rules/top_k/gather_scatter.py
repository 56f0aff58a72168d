"""Gather and scatter at indices from `top_k`, and the table of rules for such indices."""

from __future__ import annotations

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Match, Pick, Remainder, Renamed, Value, leaf_of
from trainkit.growth.axes.axis import Axis
from trainkit.growth.axes.linear import ZERO, plus
from trainkit.growth.rules import indexing, remainders, symbols
from trainkit.growth.rules.top_k import index_arithmetic as arithmetic
from trainkit.growth.rules.top_k import one_hot, selection
from trainkit.growth.rules.top_k.operands import refuse


def _indexed(pair: EquationPair, key: str) -> tuple[Pick, int]:
    """The `Pick` of an index operand, and the dimension of the operand that it indexes."""
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
    """The selected elements keep the shares of the indexed axis, along the axis of the indices."""
    pick, d = _indexed(pair, "start_index_map")
    x, out = pair.ins[0], pair.outs[0]
    indexing.gather_scales(scales, pair)
    o = pair.notes["layout"].index(("index", pick.dim))
    _hand_over(scales, (x, d, pick.into), (out, o, pick.along))
    out.origin = x.origin  # rows of a parameter count as the parameter


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
    """Moves share exponents from an axis of one value to the matched axis of another.

    Along both axes, the shares of the copies of a unit have mean 1.
    """
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
        name: Rule(arithmetic.move_axes, selection.no_scales)
        for name in ("transpose", "broadcast_in_dim", "squeeze", "reshape", "copy",
                     "stop_gradient")
    },
    **{name: Rule(arithmetic.less_axes, selection.no_scales) for name in ("lt", "ge", "gt", "le")},
    **{name: Rule(arithmetic.shift_axes, selection.no_scales) for name in ("add", "sub")},
    **{name: Rule(arithmetic.bound_axes, selection.no_scales) for name in ("max", "min", "clamp")},
    **{name: Rule(arithmetic.equal_axes, selection.no_scales) for name in ("eq", "ne")},
    "select_n": Rule(arithmetic.select_axes, selection.pinned_scales),
    "convert_element_type": Rule(arithmetic.convert_axes, selection.no_scales),
    "slice": Rule(arithmetic.slice_axes, selection.no_scales),
    "concatenate": Rule(arithmetic.concatenate_axes, selection.pinned_scales),
    "gather": Rule(gather_axes, gather_scales),
    **{name: Rule(scatter_axes, scatter_scales) for name in indexing.RULES if "scatter" in name},
}  # fmt: skip


def _rule(pair: EquationPair) -> Rule:
    """The rule of an equation with an operand that is no copy."""
    if any(isinstance(v.choice, Renamed) for v in pair.ins):
        return symbols.rule(pair)
    if any(isinstance(v.choice, Remainder) for v in pair.ins):
        return remainders.rule(pair)
    pick = any(isinstance(v.choice, Pick) for v in pair.ins)
    match = any(isinstance(v.choice, Match) for v in pair.ins)
    found = (READERS if pick else one_hot.RULES).get(pair.name)
    if found is None or (pick and match):
        refuse(pair)
    return found


RULES: dict[str, Rule] = {
    "top_k": Rule(selection.top_k_axes, selection.top_k_scales),
    "choice": Rule(
        lambda pair: _rule(pair).axes(pair), lambda scales, pair: _rule(pair).scales(scales, pair)
    ),
}
