"""The rule of `top_k` along an axis that grows: equal copies are chosen together."""

from __future__ import annotations

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.analysis.scales.index_maps import ANY, Group, move
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Pick, Value, leaf_of
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import repeated
from trainkit.growth.axes.queries import grown_leaves


def top_k_axes(pair: EquationPair) -> None:
    x = pair.ins[0]
    d = pair.notes["dim"] = pair.params.get("axis", len(x.axes) - 1) % len(x.axes)
    pair.check_same_params("k")
    axis, (k, k_big) = find(x.axes[d]), pair.both("k")
    m, rest = divmod(axis.big, axis.small)
    if rest:
        pair.fail(
            "top_k chooses from an axis that grows to a size that is not a multiple, so that some "
            "entries would have more copies than others",
            axes=(axis,),
            hint=f"grow it to a multiple of {axis.small}",
        )
    if k_big != m * k:
        copies = f" with {m} copies of each entry: some copies would be chosen alone"
        pair.fail(
            f"top_k keeps {k} of {axis.small} and {k_big} of {axis.big}" + copies * (m > 1),
            axes=(axis,),
            hint=f"choose {m} times as many, k={m * k}, or do not grow this axis (experts, "
            "vocabulary)"
            if m > 1
            else "use the same k in both models",
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
    """The chosen entries are the old ones; the copies of each are neighbours."""
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
            "the copies of an entry are not neighbours in the operand of `top_k`",
            axes=(axis,),
            hint="choose among the units of one plain axis (the experts), and return no result "
            "with this axis",
        )
    scales.mark_order_sensitive(x, [d])
    _tie(scales, x, leaf_of(axis))
    one = [Group((e,), (e,)) for e in range(len(x.axes)) if e != d]
    first = Group((d,), (d,), np.arange(out.small[d]), np.arange(out.small[d]).repeat(
        out.big[d] // out.small[d]) * (axis.big // axis.small))  # fmt: skip
    move(scales, pair, out, [(x, [*one, first])])
    return _without_scale(scales, index)


def _tie(scales: ScalePropagation, x: Value, leaf: Axis) -> None:
    """Notes the parameters whose copies must stay equal, so that copies of entries are equal."""
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


def _without_scale(scales: ScalePropagation, value: Value) -> None:
    """Makes a value of indices, which has no scale."""
    scales.plain(value)
    value.scale[...] = None


def no_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.outs:
        if isinstance(v.choice, Pick):
            _without_scale(scales, v)
        else:
            scales.plain(v)


def pinned_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.ins:
        if v.choice is None:
            scales.pin(pair, v)
    no_scales(scales, pair)
