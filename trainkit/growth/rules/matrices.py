"""Factorisations and solutions of systems of one size, many at a time."""

from __future__ import annotations

from functools import partial

from trainkit.growth.analysis.index_maps import ANY, Group, move
from trainkit.growth.analysis.joint_program import Joint, Rule
from trainkit.growth.analysis.scales import Flow
from trainkit.growth.axes.axis import Axis

_HINT = "keep the sizes of the matrix as they are (copies make it singular), and grow how many "
_HINT += "there are, or another axis"


def factored_axes(last: int, joint: Joint) -> None:
    """The last dimensions are a matrix, or a vector, that must not grow; the others are many."""
    joint.same_told()
    lead = len(joint.ins[0].axes) - last
    for v in joint.ins:
        joint.refuse_growth(
            v, range(lead, len(v.axes)), f"`{joint.name}` of a matrix that grows", _HINT
        )
        for a, b in zip(joint.ins[0].axes[:lead], v.axes[:lead], strict=True):
            joint.unify(a, b)
    for i, out in enumerate(joint.small.outs):
        fixed = [Axis(n, n) for n in out.aval.shape[lead:]]
        joint.new_out(i, [*joint.ins[0].axes[:lead], *fixed])


def factored(flow: Flow, joint: Joint) -> None:
    for v in joint.ins:
        flow.pin(joint, v)
        flow.refuse_hollow(joint, v)
    for v in joint.outs:
        flow.plain(v)


def triangular_axes(joint: Joint) -> None:
    joint.same_told()
    a, b = joint.ins
    lead = len(a.axes) - 2
    joint.refuse_growth(a, (lead, lead + 1), "a triangular system that grows", _HINT)
    for x, y in zip(a.axes[:lead], b.axes[:lead], strict=True):
        joint.unify(x, y)
    solved = lead if joint.params["left_side"] else lead + 1
    joint.notes["solved"] = solved
    joint.refuse_growth(b, [solved], "a triangular system that grows", _HINT)
    joint.new_out(0, [Axis(b.small[d], b.big[d]) if d == solved else x
                      for d, x in enumerate(b.axes)])  # fmt: skip


def triangular(flow: Flow, joint: Joint) -> None:
    """Linear in the right-hand sides."""
    a, b = joint.ins
    flow.pin(joint, a)
    flow.refuse_hollow(joint, a)
    solved = joint.notes["solved"]
    groups = [Group((d,), (d,), ANY if d == solved else None) for d in range(len(b.axes))]
    move(flow, joint, joint.outs[0], [(b, groups)])
    flow.uniform(joint, b, solved)


_FACTORED = {
    "cholesky": 2, "lu": 2, "qr": 2, "geqrf": 2, "eigh": 2, "eig": 2, "svd": 2, "schur": 2,
    "hessenberg": 2, "householder_product": 2, "lu_pivots_to_permutation": 1,
}  # fmt: skip

RULES = {
    **{n: Rule(partial(factored_axes, last), factored) for n, last in _FACTORED.items()},
    "triangular_solve": Rule(triangular_axes, triangular),
}
