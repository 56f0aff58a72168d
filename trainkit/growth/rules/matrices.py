"""Batched matrix factorisations and linear systems, whose matrices must not grow."""

from __future__ import annotations

from functools import partial

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.index_maps import ANY, Group, move
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.axes.axis import Axis

_HINT = "do not grow the matrix (copies make it singular); grow a batch axis, or another axis"


def factored_axes(last: int, pair: EquationPair) -> None:
    """The last dimensions are a matrix or vector that must not grow. The others are batch axes."""
    pair.check_same_params()
    lead = len(pair.ins[0].axes) - last
    for v in pair.ins:
        pair.refuse_growth(
            v, range(lead, len(v.axes)), f"`{pair.name}` of a matrix that grows", _HINT
        )
        for a, b in zip(pair.ins[0].axes[:lead], v.axes[:lead], strict=True):
            pair.unify(a, b)
    for i, out in enumerate(pair.small.outs):
        fixed = [Axis(n, n) for n in out.aval.shape[lead:]]
        pair.new_out(i, [*pair.ins[0].axes[:lead], *fixed])


def factored(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.ins:
        scales.pin(pair, v)
        scales.refuse_padding(pair, v)
    for v in pair.outs:
        scales.plain(v)


def triangular_axes(pair: EquationPair) -> None:
    pair.check_same_params()
    a, b = pair.ins
    lead = len(a.axes) - 2
    pair.refuse_growth(a, (lead, lead + 1), "a triangular system that grows", _HINT)
    for x, y in zip(a.axes[:lead], b.axes[:lead], strict=True):
        pair.unify(x, y)
    solved = lead if pair.params["left_side"] else lead + 1
    pair.notes["solved"] = solved
    pair.new_out(0, [Axis(b.small[d], b.big[d]) if d == solved else x
                      for d, x in enumerate(b.axes)])  # fmt: skip


def triangular(scales: ScalePropagation, pair: EquationPair) -> None:
    """Linear in the right-hand sides."""
    a, b = pair.ins
    scales.pin(pair, a)
    scales.refuse_padding(pair, a)
    solved = pair.notes["solved"]
    groups = [Group((d,), (d,), ANY if d == solved else None) for d in range(len(b.axes))]
    move(scales, pair, pair.outs[0], [(b, groups)])


_FACTORED = {
    "cholesky": 2, "lu": 2, "qr": 2, "eigh": 2, "eig": 2, "svd": 2, "schur": 2,
    "hessenberg": 2, "householder_product": 2, "lu_pivots_to_permutation": 1,
}  # fmt: skip

RULES = {
    **{n: Rule(partial(factored_axes, last), factored) for n, last in _FACTORED.items()},
    "triangular_solve": Rule(triangular_axes, triangular),
}
