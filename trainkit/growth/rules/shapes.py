"""The same elements in another shape: reshape, transpose, broadcast, squeeze."""

from __future__ import annotations

import math

import numpy as np

from trainkit.growth.analysis.index_maps import Group, move
from trainkit.growth.analysis.joint_program import Joint, Rule, Value
from trainkit.growth.analysis.scales import Flow
from trainkit.growth.axes.axis import Axis, find, product


def reshape_axes(joint: Joint) -> None:
    joint.same_told("new_sizes")
    x = joint.ins[0]
    _check_factors(joint, x)
    out = joint.new_out(0)
    order = joint.params["dimensions"] or tuple(range(len(x.axes)))
    old, small, big = ([v[d] for d in order] for v in (x.axes, x.small, x.big))
    groups = []
    i = j = 0
    n, m = len(old), len(out.axes)
    while i < n or j < m:
        gi, gj = i, j
        a = [1, 1]  # small, big of what is taken from the operand so far
        b = [1, 1]
        while True:
            if a == b and (i > gi or j > gj):
                break
            if i < n and (j == m or a[0] < b[0] or (a[0] == b[0] and a[1] <= b[1])):
                a = [a[0] * small[i], a[1] * big[i]]
                i += 1
            elif j < m:
                b = [b[0] * out.small[j], b[1] * out.big[j]]
                j += 1
            else:
                joint.fail("a reshape does not split the same way in the two programs")
        joint.unify(product(old[gi:i]), product(out.axes[gj:j]))
        groups.append(Group(order[gi:i], tuple(range(gj, j))))
    joint.notes["groups"] = groups


def _check_factors(joint: Joint, x: Value) -> None:
    small, big = joint.small.outs[0].aval.shape, joint.big.outs[0].aval.shape
    made = list(zip(small, big, strict=True)) if len(small) == len(big) else []
    for n, m in made:
        if m < n:
            split = [a for a, *sizes in zip(x.axes, x.small, x.big, strict=True)
                     if tuple(sizes) not in made]  # fmt: skip
            joint.fail(
                f"an axis is split into {list(small)} and {list(big)}: a factor shrinks from {n} "
                f"to {m}, so that what is one unit of the small model is none of the big one",
                axes=split,
                hint="grow all factors of a split axis: query and key heads together, heads or "
                "head_dim (key heads alone: how='groups')",
            )


def reshape_flow(flow: Flow, joint: Joint) -> None:
    x = joint.ins[0]
    groups = [
        g
        if len(g.src) == len(g.out) == 1
        else g._replace(small=np.arange(math.prod(x.small[d] for d in g.src)))
        for g in joint.notes["groups"]
    ]
    move(flow, joint, joint.outs[0], [(x, groups)])
    joint.outs[0].origin = x.origin


def transpose_axes(joint: Joint) -> None:
    joint.same_told()
    joint.new_out(0, [joint.ins[0].axes[p] for p in joint.params["permutation"]])


def transpose_flow(flow: Flow, joint: Joint) -> None:
    groups = [Group((p,), (d,)) for d, p in enumerate(joint.params["permutation"])]
    move(flow, joint, joint.outs[0], [(joint.ins[0], groups)])
    joint.outs[0].origin = joint.ins[0].origin


def broadcast_axes(joint: Joint) -> None:
    joint.same_told("shape")
    x = joint.ins[0]
    small, big = joint.both("shape")
    made: list[Axis] = [Axis(n, m) for n, m in zip(small, big, strict=True)]
    for d, o in enumerate(joint.params["broadcast_dimensions"]):
        same = (x.small[d] == small[o], x.big[d] == big[o])
        if all(same):
            made[o] = x.axes[d]
        elif x.small[d] != 1 or x.big[d] != 1:
            joint.fail("an axis is broadcast in one program only", axes=(x.axes[d],))
    joint.new_out(0, made)


def broadcast_flow(flow: Flow, joint: Joint) -> None:
    x, out = joint.ins[0], joint.outs[0]
    dims = joint.params["broadcast_dimensions"]
    groups = []
    for o, axis in enumerate(out.axes):
        d = dims.index(o) if o in dims else None
        if d is not None and find(x.axes[d]) is find(axis):
            groups.append(Group((d,), (o,)))
        else:
            zeros = np.zeros(out.small[o], np.int64), np.zeros(out.big[o], np.int64)
            groups.append(Group((d,) if d is not None else (), (o,), *zeros))
    move(flow, joint, out, [(x, groups)])
    if all(a is b for a, b in zip(x.axes, (out.axes[o] for o in dims), strict=True)):
        joint.outs[0].origin = x.origin


def squeeze_axes(joint: Joint) -> None:
    joint.same_told()
    x = joint.ins[0]
    gone = [d % len(x.axes) for d in joint.params["dimensions"]]
    joint.new_out(0, [a for d, a in enumerate(x.axes) if d not in gone])


def squeeze_flow(flow: Flow, joint: Joint) -> None:
    x = joint.ins[0]
    gone = [d % len(x.axes) for d in joint.params["dimensions"]]
    kept = [d for d in range(len(x.axes)) if d not in gone]
    move(flow, joint, joint.outs[0], [(x, [Group((d,), (o,)) for o, d in enumerate(kept)])])
    joint.outs[0].origin = x.origin


def expand_axes(joint: Joint) -> None:
    joint.same_told()
    out_rank = len(joint.small.outs[0].aval.shape)
    new = [d % out_rank for d in joint.params["dimensions"]]
    old = iter(joint.ins[0].axes)
    joint.new_out(0, [Axis(1, 1) if d in new else next(old) for d in range(out_rank)])


def expand_flow(flow: Flow, joint: Joint) -> None:
    out = joint.outs[0]
    new = [d % len(out.axes) for d in joint.params["dimensions"]]
    kept = [o for o in range(len(out.axes)) if o not in new]
    move(flow, joint, out, [(joint.ins[0], [Group((d,), (o,)) for d, o in enumerate(kept)])])
    out.origin = joint.ins[0].origin


RULES = {
    "reshape": Rule(reshape_axes, reshape_flow),
    "transpose": Rule(transpose_axes, transpose_flow),
    "broadcast_in_dim": Rule(broadcast_axes, broadcast_flow),
    "squeeze": Rule(squeeze_axes, squeeze_flow),
    "expand_dims": Rule(expand_axes, expand_flow),
}
