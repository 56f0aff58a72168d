"""Indexing by computed indices: gather, scatter, dynamic slices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jax.lax import GatherScatterMode

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.index_maps import ANY, Group, move
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.scales.unknowns import Contraction
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import Layout
from trainkit.growth.axes.linear import ZERO, constant, plus

_HINT = "do not grow the indexed axis (a vocabulary or a table of positions is not a width)"


def _whole(pair: EquationPair, v: Value, sizes: tuple, d: int) -> bool:
    """Whether a slice takes all of dimension d; refuses if it takes part of a growing axis."""
    small, big = sizes
    if (small[d], big[d]) == (v.small[d], v.big[d]):
        return True
    axis = find(v.axes[d])
    if not axis.fixed or small[d] != big[d]:
        pair.fail(f"`{pair.name}` indexes into an axis that grows", axes=(axis,), hint=_HINT)
    return False


def gather_axes(pair: EquationPair, chosen: Sequence[int] = (), layout: Layout = "append",
                inside: bool = False) -> None:  # fmt: skip
    """`chosen`: dimensions that are indexed by a `Pick`. `layout`: that of a table that grows.
    `inside`: whether indices are known to be in bounds."""
    pair.check_same_params("slice_sizes")
    x, index = pair.ins
    n = pair.params["dimension_numbers"]
    sizes = pair.both("slice_sizes")
    table = [d for d in n.collapsed_slice_dims if d not in chosen and not find(x.axes[d]).fixed]
    batch_x = list(n.operand_batching_dims)
    batch_i = list(n.start_indices_batching_dims)
    whole = [
        d not in (*table, *chosen, *batch_x) and _whole(pair, x, sizes, d)
        for d in range(len(x.axes))
    ]
    for d, i in zip(batch_x, batch_i, strict=True):
        pair.unify(x.axes[d], index.axes[i])
    if table and not inside and pair.params["mode"] == GatherScatterMode.CLIP:
        pair.fail(
            "out-of-bounds indices are clipped to the last row of a table, which is another row "
            "if the table grows",
            axes=[x.axes[d] for d in table],
            hint="use the default mode if indices are in bounds, or clip them to the size of the "
            "small table in both models",
        )
    for d in table:  # a vocabulary or a table of positions
        pair.analysis.force(x.axes[d], layout, pair)
    windows = [
        d for d in range(len(x.axes)) if d not in n.collapsed_slice_dims and d not in batch_x
    ]
    rank = len(pair.small.outs[0].aval.shape)
    made: list[Axis] = []
    places = itertools.count()
    window = iter(windows)
    order: list[tuple[str, int]] = []
    for o in range(rank):
        if o in n.offset_dims:
            d = next(window)
            order.append(("x", d))
            small, big = sizes[0][d], sizes[1][d]
            made.append(x.axes[d] if whole[d] else Axis(small, big))
        else:
            i = next(places)
            order.append(("index", i))
            made.append(index.axes[i])
    pair.notes["layout"] = order
    pair.new_out(0, made)


def gather_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, index = pair.ins
    if index.choice is None and "copied" not in pair.notes:
        scales.pin(pair, index)
        if pair.params["mode"] != GatherScatterMode.CLIP:
            scales.refuse_padding(pair, index)  # an out-of-bounds row is NaN
    n, out = pair.params["dimension_numbers"], pair.outs[0]
    scales.read(x)
    for d in range(len(x.axes)):
        if d in n.collapsed_slice_dims:
            scales.uniform(pair, x, d)
    batch = dict(zip(n.start_indices_batching_dims, n.operand_batching_dims, strict=True))
    groups = []
    for o, (kind, d) in enumerate(pair.notes["layout"]):
        if kind == "x":
            same = find(x.axes[d]) is find(out.axes[o])
            groups.append(Group((d,), (o,), None if same else ANY))
        elif d in batch:
            groups.append(Group((batch[d],), (o,)))
        else:
            zeros = np.zeros(out.small[o], np.int64), np.zeros(out.big[o], np.int64)
            groups.append(Group((), (o,), *zeros))
    move(scales, pair, out, [(x, groups)])
    # Along an axis of the index, every unit is a row of the table.
    kept = [o for o, (kind, _) in enumerate(pair.notes["layout"]) if kind == "x"]
    out.means = {key: means for key, means in out.means.items() if key[0] in kept}


_SCATTERS = ("scatter", *(f"scatter-{kind}" for kind in ("add", "sub", "mul", "min", "max")))
_SUMS = ("scatter-add", "scatter-sub")


def scatter_axes(pair: EquationPair, chosen: Sequence[int] = ()) -> None:
    if len({str(jaxpr) for jaxpr in pair.both("update_jaxpr")}) > 1:
        pair.fail("the update functions of the two scatters differ")
    pair.check_same_params()
    x, index, updates = pair.ins
    n = pair.params["dimension_numbers"]
    batch = dict(zip(n.operand_batching_dims, n.scatter_indices_batching_dims, strict=True))
    for d, i in batch.items():
        pair.unify(x.axes[d], index.axes[i])
    for d in set(n.inserted_window_dims) - set(chosen):
        pair.refuse_growth(x, [d], "a scatter indexes into an axis that grows", _HINT)
    windows = iter(
        d for d in range(len(x.axes)) if d not in n.inserted_window_dims and d not in batch
    )
    places = itertools.count()
    layout: list[tuple[str, int]] = []
    for o in range(len(updates.axes)):
        if o in n.update_window_dims:
            d = next(windows)
            layout.append(("x", d))
            if (updates.small[o], updates.big[o]) == (x.small[d], x.big[d]):
                pair.unify(updates.axes[o], x.axes[d])
            else:
                pair.refuse_growth(x, [d], "a scatter writes part of an axis that grows", _HINT)
                why = "a scatter writes part of an axis, and its updates grow"
                pair.refuse_growth(updates, [o], why, _HINT)
        else:
            i = next(places)
            layout.append(("index", i))
            pair.unify(updates.axes[o], index.axes[i])
    pair.notes["layout"] = layout
    pair.new_out(0, x.axes)


def scatter_scales(
    scales: ScalePropagation,
    pair: EquationPair,
    chosen: int | None = None,
    also: Callable[[Value], None] = lambda spread: None,
) -> None:
    """Requires operand and updates to have equal scales and shares, because they may be combined.

    `chosen` is the dimension of the updates that is indexed by a `Pick`; `also` is called with the
    updates, spread over the axes of the operand. See `top_k.gather_scatter`.
    """
    x, index, updates = pair.ins
    out = pair.outs[0]
    if index.choice is None:
        scales.pin(pair, index)
    n = pair.params["dimension_numbers"]
    scales.read(x)
    scales.read(updates)
    if pair.name == "scatter" and pair.params["update_jaxpr"] is not None:
        scales.pin(pair, x)  # an unknown function of the old element
        scales.refuse_padding(pair, x)
        return scales.plain(out)
    kept = {}  # dimension of x -> dimension of updates that runs through all of it
    for o, (kind, d) in enumerate(pair.notes["layout"]):
        if kind == "x" and find(x.axes[d]) is find(updates.axes[o]):
            kept[d] = o
    for i, d in zip(n.scatter_indices_batching_dims, n.operand_batching_dims, strict=True):
        for o, (kind, place) in enumerate(pair.notes["layout"]):
            if kind == "index" and place == i:
                kept[d] = o
    for d in range(len(x.axes)):
        if d not in kept:
            scales.uniform(pair, x, d)
    gone = [o for o in range(len(updates.axes)) if o not in kept.values()]
    for o in gone:
        scales.uniform(pair, updates, o)
    if pair.name not in ("scatter", *_SUMS):
        for v in (x, updates):
            scales.pin_exponents(v)
        if pair.name in ("scatter_mul", "scatter-mul"):
            scales.pin(pair, x)
            scales.pin(pair, updates)
    spread = Value(x.small, x.big, x.dtype, list(x.axes))
    groups = []
    for d in range(len(x.axes)):
        if d in kept:
            groups.append(Group((kept[d],), (d,)))
        else:
            zeros = np.zeros(x.small[d], np.int64), np.zeros(x.big[d], np.int64)
            groups.append(Group((), (d,), *zeros))
    move(scales, pair, spread, [(updates, groups)])
    for o in gone:
        if o != chosen:
            _meet(scales, pair, updates, o, spread)
    also(spread)
    return scales.agree(pair, [x, spread], out)


def _meet(
    scales: ScalePropagation, pair: EquationPair, updates: Value, o: int, spread: Value
) -> None:
    """Handles a dimension of updates whose copies are all written to one element."""
    if pair.name not in _SUMS:
        scales.refuse_padding(pair, updates, [o])
        scales.mark_order_sensitive(updates, [o])
        if pair.name == "scatter-mul":
            pair.refuse_growth(updates, [o], "an element is multiplied by every copy", _HINT)
        for (d, _, _), expr in updates.exponents.items():
            if d == o:
                scales.splits.require_zero(expr)
        return
    for d, uid in scales.padding(updates):
        if d == o:
            if (d, uid) not in updates.zeros:
                scales.refuse_padding(pair, updates, [o])
            scales.need(updates.zeros[d, uid], pair, [updates.axes[o]])
    cells = scales.labels(updates.axes[o])[1]
    copies = {scales.log_copies(cell) for cell in cells}
    if len(copies) > 1:
        pair.fail("segments with different numbers of copies are added to one element",
                   axes=[updates.axes[o]])  # fmt: skip
    for block in np.ndindex(spread.scale.shape):
        if spread.scale[block] is not None:
            spread.scale[block] = plus(spread.scale[block], constant(*copies))
    direct = [] if updates.origin is None else [updates.origin]
    for d, label, leaf in scales.cells(updates):
        if d == o:
            exponent = updates.exponents.get((d, label, leaf.uid), ZERO)
            scales.contractions.append(
                Contraction(exponent, pair, updates.axes[o], leaf, direct, [exponent] * len(direct))
            )


def dynamic_slice_axes(pair: EquationPair) -> None:
    pair.check_same_params("slice_sizes")
    x = pair.ins[0]
    sizes = pair.both("slice_sizes")
    part = lambda d: Axis(sizes[0][d], sizes[1][d])
    pair.new_out(0, [a if _whole(pair, x, sizes, d) else part(d) for d, a in enumerate(x.axes)])


def dynamic_slice_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, *starts = pair.ins
    out = pair.outs[0]
    for v in starts:
        # The start along an axis that is taken whole is always clamped to 0.
        scales.read(v)
    for d, v in enumerate(starts):
        if find(x.axes[d]) is not find(out.axes[d]):
            scales.pin(pair, v)
    whole = lambda d: find(x.axes[d]) is find(out.axes[d])
    groups = [Group((d,), (d,), None if whole(d) else ANY) for d in range(len(x.axes))]
    move(scales, pair, out, [(x, groups)])


def dynamic_update_axes(pair: EquationPair) -> None:
    pair.check_same_params()
    x, update = pair.ins[:2]
    for d in range(len(x.axes)):
        if (x.small[d], x.big[d]) == (update.small[d], update.big[d]):
            pair.unify(x.axes[d], update.axes[d])
        else:
            pair.refuse_growth(x, [d], "part of an axis that grows is overwritten", _HINT)
            pair.refuse_growth(update, [d], "part of an axis that grows is overwritten", _HINT)
    pair.new_out(0, x.axes)


def dynamic_update_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, update, *starts = pair.ins
    out = pair.outs[0]
    scales.read(x)
    scales.read(update)
    groups = []
    for d, v in enumerate(starts):
        if find(x.axes[d]) is find(update.axes[d]):
            scales.read(v)
            groups.append(Group((d,), (d,)))
        else:
            scales.pin(pair, v)
            scales.uniform(pair, x, d)
            groups.append(Group((d,), (d,), ANY))
    spread = Value(x.small, x.big, x.dtype, list(x.axes))
    move(scales, pair, spread, [(update, groups)])
    scales.agree(pair, [x, spread], out)


RULES = {
    "gather": Rule(gather_axes, gather_scales),
    **{name: Rule(scatter_axes, scatter_scales) for name in _SCATTERS},
    "dynamic_slice": Rule(dynamic_slice_axes, dynamic_slice_scales),
    "dynamic_update_slice": Rule(dynamic_update_axes, dynamic_update_scales),
}
