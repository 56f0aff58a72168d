"""Slices and concatenations of axes: slice, split, concatenate, stack, tile, pad."""

from __future__ import annotations

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.index_maps import Group, move
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, concatenation, find, product, show


def _slice_of(pair: EquationPair, axis: Axis, small: tuple, big: tuple) -> Axis:
    """The axis of x[start:limit:stride] in both programs; refines the axis of x if possible."""
    axis = find(axis)
    (start, _, step), (big_start, _, big_step) = small, big
    n, m = len(range(*small)), len(range(*big))
    if small == (0, axis.small, 1) and big == (0, axis.big, 1):
        return axis
    made = Axis(n, m)
    if axis.fixed and small == big:
        if step == 1 and 0 < n <= 64 and axis.small <= 256:
            _segment(pair, axis, made, start, big_start)
        return made
    if n > m:
        pair.fail("a slice is shorter in the big model", axes=(axis,))
    if axis.ordered:
        return made  # an axis of ranks: scale propagation checks that copies stay with their units
    if step == big_step == 1:
        _segment(pair, axis, made, start, big_start)
    elif (
        step == big_step
        and start == big_start < step
        and (n * step, m * step) == (axis.small, axis.big)
    ):
        pair.unify(axis, product([made, Axis(step, step)]))
    else:
        pair.fail("a strided slice divides the groups of an axis that grows", axes=(axis,))
    return made


def _segment(pair: EquationPair, axis: Axis, made: Axis, start: int, big_start: int) -> None:
    axis = find(axis)
    before = Axis(start, big_start)
    after = Axis(axis.small - start - made.small, axis.big - big_start - made.big)
    added = [p for p in (before, after) if p.small == 0 < p.big and made.small and not axis.fixed]
    for part in added:
        pair.analysis.force(part, "append", pair)  # new entries around all of the old ones
    for part in (before, made, after):
        if part.big < part.small or ((part.small == 0) != (part.big == 0) and part not in added):
            more = axis.fixed and made.small < made.big  # modes of a spectrum
            pair.fail(
                f"a slice takes {made.small} of {axis.small} entries in the small model, and "
                f"{made.big} in the big one"
                if more
                else f"a slice divides an axis that grows into parts, one of size {part.small} → "
                f"{part.big}",
                axes=(axis,),
                hint=f"give the small model weights for {made.big} entries, with 0 for new ones "
                "(jnp.pad), behind those that read x[:m] and in front of those that read x[-m:]: "
                "with the big function they are the same model, which may grow further"
                if more
                else "slice in the same proportions in both models",
            )
    if made.fixed:
        pair.analysis.in_front.append(before)
    parts = [p for p in (before, made, after) if p.big]
    shown = " | ".join(f"{p.small} → {p.big}" for p in parts)
    pair.unify(
        axis,
        concatenation(parts),
        f"a slice cuts the axis {show(axis)} into the parts {shown}, and not every part grows so",
        "slice so that a part that does not grow in the model is cut at the same place in both, "
        "and other parts in proportion",
    )


def slice_axes(pair: EquationPair) -> None:
    pair.check_same_params("start_indices", "limit_indices", "strides")
    x = pair.ins[0]
    ranges = []
    for params in (pair.params, pair.big.params):
        strides = params["strides"] or (1,) * len(x.axes)
        ranges.append(list(zip(params["start_indices"], params["limit_indices"], strides,
                               strict=True)))  # fmt: skip
    pair.notes["ranges"] = ranges
    pair.new_out(0, [_slice_of(pair, a, s, b) for a, s, b in zip(x.axes, *ranges, strict=True)])


def _range_group(v: Value, out: Value, d: int, small: tuple, big: tuple) -> Group:
    if find(v.axes[d]) is find(out.axes[d]):
        return Group((d,), (d,))
    return Group((d,), (d,), np.arange(*small), np.arange(*big))


def slice_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, out = pair.ins[0], pair.outs[0]
    small, big = pair.notes["ranges"]
    groups = [_range_group(x, out, d, small[d], big[d]) for d in range(len(x.axes))]
    move(scales, pair, out, [(x, groups)])
    out.origin = x.origin


def split_axes(pair: EquationPair) -> None:
    pair.check_same_params("sizes")
    x, d = pair.ins[0], pair.params["axis"]
    small, big = pair.both("sizes")
    if len(small) != len(big):
        pair.fail(
            f"an axis is split into {len(small)} parts in the small model and into {len(big)} in "
            "the big one, which are other equations",
            axes=(x.axes[d],),
            hint="keep their number, or make the parts an axis: x.reshape(*x.shape[:-1], n, -1)",
        )
    parts = [Axis(n, m) for n, m in zip(small, big, strict=True)]
    for part in parts:
        if part.big < part.small:
            pair.fail("a part of a split is shorter in the big model", axes=(x.axes[d],))
    pair.unify(x.axes[d], concatenation(parts))
    for i, part in enumerate(parts):
        pair.new_out(i, [part if e == d else a for e, a in enumerate(x.axes)])


def split_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, d = pair.ins[0], pair.params["axis"]
    s = b = 0
    for out, n, m in zip(pair.outs, *pair.both("sizes"), strict=True):
        groups = [
            _range_group(x, out, e, (s, s + n, 1), (b, b + m, 1)) if e == d else Group((e,), (e,))
            for e in range(len(x.axes))
        ]
        move(scales, pair, out, [(x, groups)])
        out.origin = x.origin
        s, b = s + n, b + m


def concatenate_axes(pair: EquationPair) -> None:
    pair.check_same_params()
    d = pair.params["dimension"]
    first = pair.ins[0]
    for v in pair.ins[1:]:
        for e, (a, b) in enumerate(zip(first.axes, v.axes, strict=True)):
            if e != d:
                pair.unify(a, b)
    whole = concatenation([v.axes[d] for v in pair.ins])
    if find(whole).kind == "sum" and find(whole).fixed and len(pair.ins) > 64:
        whole = Axis(find(whole).small, find(whole).big)
    pair.new_out(0, [whole if e == d else a for e, a in enumerate(first.axes)])


def concatenate_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    d, out = pair.params["dimension"], pair.outs[0]
    pieces = []
    s = b = 0
    for v in pair.ins:
        small, big = np.full(out.small[d], -1), np.full(out.big[d], -1)
        small[s : s + v.small[d]] = np.arange(v.small[d])
        big[b : b + v.big[d]] = np.arange(v.big[d])
        s, b = s + v.small[d], b + v.big[d]
        groups = [Group((e,), (e,), small, big) if e == d else Group((e,), (e,))
                  for e in range(len(out.axes))]  # fmt: skip
        pieces.append((v, groups))
    move(scales, pair, out, pieces)


def stack_axes(pair: EquationPair) -> None:
    pair.check_same_params()
    first = pair.ins[0]
    for v in pair.ins[1:]:
        for a, b in zip(first.axes, v.axes, strict=True):
            pair.unify(a, b)
    made = list(first.axes)
    d = pair.params["axis"] % (len(made) + 1)
    count = len(pair.ins)
    one = concatenation([Axis(1, 1) for _ in pair.ins]) if count <= 64 else Axis(count, count)
    made.insert(d, one)
    pair.new_out(0, made)


def stack_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    out = pair.outs[0]
    d = pair.params["axis"] % len(out.axes)
    pieces = []
    for i, v in enumerate(pair.ins):
        at = np.full(out.small[d], -1)
        at[i] = 0
        groups = [Group((e if e < d else e - 1,), (e,)) for e in range(len(out.axes)) if e != d]
        pieces.append((v, [*groups, Group((), (d,), at, at)]))
    move(scales, pair, out, pieces)


def tile_axes(pair: EquationPair) -> None:
    pair.check_same_params("reps")
    x = pair.ins[0]
    made = []
    for a, n, m in zip(x.axes, *pair.both("reps"), strict=True):
        if m < n:
            pair.fail(
                "a tile has fewer repeats in the big model",
                axes=(a,),
                hint="grow what is repeated and the result by one factor, as key heads together "
                "with query heads",
            )
        made.append(a if n == m == 1 else product([Axis(n, m), a]))
    pair.new_out(0, made)


def tile_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, out = pair.ins[0], pair.outs[0]
    groups = []
    for d, (n, m) in enumerate(zip(*pair.both("reps"), strict=True)):
        if n == m == 1:
            groups.append(Group((d,), (d,)))
        else:
            at = [np.arange(size) % max(old, 1) for size, old in
                  ((out.small[d], x.small[d]), (out.big[d], x.big[d]))]  # fmt: skip
            groups.append(Group((d,), (d,), *at))
    move(scales, pair, out, [(x, groups)])


def pad_axes(pair: EquationPair) -> None:
    pair.check_same_params("padding_config")
    x = pair.ins[0]
    made = []
    for d, (small, big) in enumerate(zip(*pair.both("padding_config"), strict=True)):
        axis = find(x.axes[d])
        if tuple(small) == tuple(big) == (0, 0, 0):
            made.append(axis)
            continue
        if axis.fixed and tuple(small) == tuple(big):
            n = len(_pad_places(axis.small, small))
            made.append(Axis(n, n))
            continue
        if small[2] or big[2] or min(*small, *big) < 0:
            pair.fail("a pad dilates or crops an axis that grows", axes=(axis,))
        ends = [Axis(small[0], big[0]), Axis(small[1], big[1])]
        if any(e.big < e.small or (e.small == 0) != (e.big == 0) for e in ends):
            pair.fail("a pad is smaller in the big model, or 0 in only one of the models",
                       axes=(axis,))  # fmt: skip
        made.append(concatenation([ends[0], axis, ends[1]]))
    pair.new_out(0, made)


def _pad_places(n: int, config) -> np.ndarray:
    """For each index of the padded axis the old index, −1 for padding."""
    low, high, inner = config
    out = np.full(max(0, n + (n - 1) * inner if n else 0), -1)
    out[:: inner + 1] = np.arange(n)
    if low < 0:
        out = out[-low:]
    if high < 0:
        out = out[:high]
    return np.concatenate([np.full(max(low, 0), -1), out, np.full(max(high, 0), -1)])


def pad_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, value = pair.ins
    out = pair.outs[0]
    groups = []
    for d, (small, big) in enumerate(zip(*pair.both("padding_config"), strict=True)):
        if tuple(small) == tuple(big) == (0, 0, 0):
            groups.append(Group((d,), (d,)))
        else:
            groups.append(
                Group((d,), (d,), _pad_places(x.small[d], small), _pad_places(x.big[d], big))
            )
    move(scales, pair, out, [(x, groups)], filled=value)


RULES = {
    "slice": Rule(slice_axes, slice_scales),
    "split": Rule(split_axes, split_scales),
    "concatenate": Rule(concatenate_axes, concatenate_scales),
    "stack": Rule(stack_axes, stack_scales),
    "tile": Rule(tile_axes, tile_scales),
    "pad": Rule(pad_axes, pad_scales),
}
