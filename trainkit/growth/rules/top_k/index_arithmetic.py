"""Arithmetic on the indices of `top_k`: moved, shifted, bounded, compared."""

from __future__ import annotations

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.analysis.values import Match, Pick, Value
from trainkit.growth.axes.axis import find
from trainkit.growth.rules import elementwise, slices
from trainkit.growth.rules.top_k.operands import HINT, moved, numbers, refuse


def _pick(pair: EquationPair) -> tuple[int, Pick]:
    """The operand that is an index; refuses unless there is exactly one."""
    found = [(i, v.choice) for i, v in enumerate(pair.ins) if isinstance(v.choice, Pick)]
    if len(found) != 1 or found[0][1].part is not None:
        refuse(pair)
    return found[0]


def move_axes(pair: EquationPair) -> None:
    _, pick = _pick(pair)
    pair.analysis.rules[pair.name].axes(pair)
    pair.outs[0].choice = pick._replace(dim=moved(pair, pick.dim, pick.along))


def _number(v: Value) -> tuple[int, int] | None:
    """The numbers of a uniform constant in both programs, or `None`."""
    if v.const is None or v.const[0].uniform is None or v.const[1].uniform is None:
        return None
    return int(v.const[0].uniform), int(v.const[1].uniform)


def _in_copies(pair: EquationPair) -> tuple[int, Pick, int]:
    """The index, and the other operand: a number c in the small program, m·c in the big one."""
    i, pick = _pick(pair)
    axis, number = find(pick.into), _number(pair.ins[1 - i])
    if number is None or number[1] != number[0] * (axis.big // axis.small):
        refuse(pair)
    return i, pick, number[0]


def less_axes(pair: EquationPair) -> None:
    """m·i + r < m·c if and only if i < c."""
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
    """max, min, clamp: an index within the bounds does not change."""
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
    """one_hot: an index is compared with the numbers of its axis."""
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
    """A slice of the chosen entries, with all their copies."""
    _, pick = _pick(pair)
    x, d = pair.ins[0], pick.dim
    slices.slice_axes(pair)
    kept = pair.outs[0].axes[d]
    if find(kept) is not find(x.axes[d]):
        m = find(x.axes[d]).big // find(x.axes[d]).small
        small, big = (ranges[d] for ranges in pair.notes["ranges"])
        if big != (m * small[0], m * small[1], 1) or small[2] != 1:
            pair.fail("a slice takes some copies of a chosen entry without the others",
                       axes=(pick.into,), hint=HINT)  # fmt: skip
        find(kept).ordered = True
        pair.analysis.force(kept, "repeat", pair)
        pick = pick._replace(along=kept)
    pair.outs[0].choice = pick


def concatenate_axes(pair: EquationPair) -> None:
    """A multi-dimensional index, one component of which is a `Pick`."""
    i, pick = _pick(pair)
    d = pair.params["dimension"]
    if d == pick.dim or any(not find(v.axes[d]).fixed for v in pair.ins):
        refuse(pair)
    slices.concatenate_axes(pair)
    at = sum(v.small[d] for v in pair.ins[:i])
    pair.outs[0].choice = pick._replace(part=(d, at))
