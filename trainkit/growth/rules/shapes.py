"""Changes of shape: reshape, transpose, broadcast, squeeze."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.index_maps import Group, move
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find, product, segments


def reshape_axes(pair: EquationPair) -> None:
    pair.check_same_params("new_sizes")
    x = pair.ins[0]
    _check_factors(pair, x)
    out = pair.new_out(0)
    order = pair.params["dimensions"] or tuple(range(len(x.axes)))
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
                pair.fail("a reshape splits axes differently in the two programs")
        pair.unify(product(old[gi:i]), product(out.axes[gj:j]), *_seam(old[gi:i], j - gj))
        groups.append(Group(order[gi:i], tuple(range(gj, j))))
    pair.notes["groups"] = groups


def _seam(axes: Sequence[Axis], count: int) -> tuple[str | None, str | None]:
    """Words for groups of units that may straddle the seam between concatenated parts."""
    parts = segments(axes[0]) if len(axes) == 1 else []
    small, big = sum(part.small for part in parts), sum(part.big for part in parts)
    if count < 2 or len(parts) < 2 or big == small:
        return None, None
    shown = " and ".join(f"{part.small} → {part.big}" for part in parts)
    why = f"concatenated parts of {shown} units are divided into groups that cross their seams"
    times = -(-big // small)
    sizes = " and ".join(f"{part.small} → {part.small * times}" for part in parts)
    return why, f"grow every part by the same whole factor: {sizes}"


def _check_factors(pair: EquationPair, x: Value) -> None:
    small, big = pair.small.outs[0].aval.shape, pair.big.outs[0].aval.shape
    made = list(zip(small, big, strict=True)) if len(small) == len(big) else []
    for n, m in made:
        if m < n:
            split = [a for a, *sizes in zip(x.axes, x.small, x.big, strict=True)
                     if tuple(sizes) not in made]  # fmt: skip
            sizes = [find(a).small for a in split]
            more = next((f" from {size} to {size * b // a}, as the number of the others does"
                         for a, b in made if a < b for size in sizes), None)  # fmt: skip
            pair.fail(
                f"an axis is split into {list(small)} and {list(big)}: a factor shrinks from {n} "
                f"to {m}, so that a unit of the small model has no unit in the big one",
                axes=split,
                hint=f"keep it at {n}, and grow the axis that is split{more} (key heads alone: "
                "how='groups')"
                if more
                else "grow all factors of a split axis: query and key heads together, heads or "
                "head_dim (key heads alone: how='groups')",
                remedy="groups",
            )


def reshape_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x = pair.ins[0]
    move(scales, pair, pair.outs[0], [(x, pair.notes["groups"])])
    pair.outs[0].origin = x.origin


def transpose_axes(pair: EquationPair) -> None:
    pair.check_same_params()
    pair.new_out(0, [pair.ins[0].axes[p] for p in pair.params["permutation"]])


def transpose_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    groups = [Group((p,), (d,)) for d, p in enumerate(pair.params["permutation"])]
    move(scales, pair, pair.outs[0], [(pair.ins[0], groups)])
    pair.outs[0].origin = pair.ins[0].origin


def broadcast_axes(pair: EquationPair) -> None:
    pair.check_same_params("shape")
    x = pair.ins[0]
    small, big = pair.both("shape")
    made: list[Axis] = [Axis(n, m) for n, m in zip(small, big, strict=True)]
    for d, o in enumerate(pair.params["broadcast_dimensions"]):
        same = (x.small[d] == small[o], x.big[d] == big[o])
        if all(same):
            made[o] = x.axes[d]
        elif x.small[d] != 1 or x.big[d] != 1:
            pair.fail("an axis is broadcast in only one of the programs", axes=(x.axes[d],))
    pair.new_out(0, made)


def broadcast_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, out = pair.ins[0], pair.outs[0]
    dims = pair.params["broadcast_dimensions"]
    groups = []
    for o, axis in enumerate(out.axes):
        d = dims.index(o) if o in dims else None
        if d is not None and find(x.axes[d]) is find(axis):
            groups.append(Group((d,), (o,)))
        else:
            zeros = np.zeros(out.small[o], np.int64), np.zeros(out.big[o], np.int64)
            groups.append(Group((), (o,), *zeros))  # its only element, over and over
    move(scales, pair, out, [(x, groups)])
    if all(a is b for a, b in zip(x.axes, (out.axes[o] for o in dims), strict=True)):
        pair.outs[0].origin = x.origin


def squeeze_axes(pair: EquationPair) -> None:
    pair.check_same_params()
    x = pair.ins[0]
    gone = [d % len(x.axes) for d in pair.params["dimensions"]]
    pair.new_out(0, [a for d, a in enumerate(x.axes) if d not in gone])


def squeeze_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x = pair.ins[0]
    gone = [d % len(x.axes) for d in pair.params["dimensions"]]
    kept = [d for d in range(len(x.axes)) if d not in gone]
    move(scales, pair, pair.outs[0], [(x, [Group((d,), (o,)) for o, d in enumerate(kept)])])
    pair.outs[0].origin = x.origin


RULES = {
    "reshape": Rule(reshape_axes, reshape_scales),
    "transpose": Rule(transpose_axes, transpose_scales),
    "broadcast_in_dim": Rule(broadcast_axes, broadcast_scales),
    "squeeze": Rule(squeeze_axes, squeeze_scales),
}
