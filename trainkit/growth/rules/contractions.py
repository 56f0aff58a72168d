"""Sums of products: dot_general, convolutions (grouped and depthwise too), plain sums."""

from __future__ import annotations

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.contractions import contract
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find, product


def dot_axes(pair: EquationPair) -> None:
    pair.check_same_params("preferred_element_type")
    (contract_a, contract_b), (batch_a, batch_b) = pair.params["dimension_numbers"]
    a, b = pair.ins
    for i, j in [*zip(contract_a, contract_b, strict=True), *zip(batch_a, batch_b, strict=True)]:
        pair.unify(a.axes[i], b.axes[j])
    free_a = [d for d in range(len(a.axes)) if d not in (*contract_a, *batch_a)]
    free_b = [d for d in range(len(b.axes)) if d not in (*contract_b, *batch_b)]
    pair.new_out(
        0,
        [a.axes[d] for d in (*batch_a, *free_a)] + [b.axes[d] for d in free_b],
    )


def dot_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    (contract_a, contract_b), (batch_a, batch_b) = pair.params["dimension_numbers"]
    a, b = pair.ins
    loops: list[Axis] = list(a.axes)
    names_b: list[int] = [-1] * len(b.axes)
    for i, j in [*zip(contract_a, contract_b, strict=True), *zip(batch_a, batch_b, strict=True)]:
        names_b[j] = i
    free_b = [d for d in range(len(b.axes)) if names_b[d] < 0]
    for d in free_b:
        names_b[d] = len(loops)
        loops.append(b.axes[d])
    free_a = [d for d in range(len(a.axes)) if d not in (*contract_a, *batch_a)]
    contract(
        scales,
        pair,
        loops,
        [(a, [(d,) for d in range(len(a.axes))]), (b, [(n,) for n in names_b])],
        (pair.outs[0], [(d,) for d in (*batch_a, *free_a)] + [(names_b[d],) for d in free_b]),
        list(contract_a),
    )


def _conv(pair: EquationPair):
    spec = pair.params["dimension_numbers"]
    return spec.lhs_spec, spec.rhs_spec, spec.out_spec


def conv_axes(pair: EquationPair) -> None:
    lhs, rhs, out = _conv(pair)
    x, kernel = pair.ins
    groups_small, groups_big = pair.both("feature_group_count")
    if pair.both("batch_group_count") != (1, 1):
        for v in (x, kernel):
            pair.refuse_growth(
                v, range(len(v.axes)), "a convolution with batch groups cannot grow", None
            )
        pair.check_same_params()
        pair.new_out(0)
        return
    pair.refuse_growth(
        x, lhs[2:], "the window of a convolution runs over an axis that grows",
        "grow the channels, not the spatial axes",
    )  # fmt: skip
    _kernel_axes(pair, kernel, rhs[2:])
    groups = Axis(groups_small, groups_big)
    inner = kernel.axes[rhs[1]]
    outer = kernel.axes[rhs[0]]
    if groups_small == groups_big == 1:
        pair.unify(x.axes[lhs[1]], inner)
        pair.notes["loops"] = None
    else:
        o_small, o_big = find(outer).small, find(outer).big
        each = Axis(o_small // groups_small, o_big // groups_big)
        if each.big < each.small:
            pair.fail("a group of a convolution has fewer channels in the big model", axes=(outer,),
                       hint="grow the number of groups together with the channels")  # fmt: skip
        if groups.big < groups.small:
            pair.fail("a convolution has fewer groups in the big model", axes=(outer,))
        pair.unify(x.axes[lhs[1]], product([groups, inner]))
        pair.unify(outer, product([groups, each]))
        pair.notes["loops"] = (groups, each)
    small, big = pair.small.outs[0].aval.shape, pair.big.outs[0].aval.shape
    made = [Axis(n, m) for n, m in zip(small, big, strict=True)]
    made[out[0]] = x.axes[lhs[0]]
    made[out[1]] = outer
    result = pair.new_out(0, made)
    for d in out[2:]:
        if not find(result.axes[d]).fixed:
            pair.analysis.force(result.axes[d], "append", pair)


def _kernel_axes(pair: EquationPair, kernel: Value, window: tuple[int, ...]) -> None:
    """A larger kernel is the old one with zero taps before and behind it, where padding grows.

    Padding that grows by more than the kernel makes results behind the old ones.
    """
    if all(find(kernel.axes[d]).fixed for d in window):
        pair.check_same_params("feature_group_count", "batch_group_count", "preferred_element_type")
        return
    pair.check_same_params(
        "feature_group_count", "batch_group_count", "preferred_element_type", "padding"
    )
    for i, d in enumerate(window):
        axis = find(kernel.axes[d])
        (low, high), (low_big, high_big) = (p[i] for p in pair.both("padding"))
        more, apart = axis.big - axis.small, pair.params["rhs_dilation"][i]
        before, rest = divmod(low_big - low, apart)
        if rest or not 0 <= before <= more or high_big - high < (more - before) * apart:
            pair.fail(
                f"a kernel grows from {axis.small} to {axis.big} taps with padding {(low, high)} → "
                f"{(low_big, high_big)}: the old taps would move to other positions",
                axes=(axis,),
                hint="grow a kernel k to k + 2p with SAME padding at stride 1, a causal one to any "
                "size with padding k − 1 before it, or use explicit padding, larger by the new "
                "taps in the big model (at stride 2, SAME padding depends on the size: 3 to 5 "
                "works, 1 to 3 on even sizes does not)",
            )
        if not axis.fixed:
            middle = 2 * before == more
            places = tuple(range(before, before + axis.small))
            pair.analysis.force(axis, "centre" if middle else places, pair)


def conv_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    lhs, rhs, out_spec = _conv(pair)
    x, kernel = pair.ins
    rank = len(lhs)
    names_x: list[tuple[int, ...] | None] = [None] * rank
    names_k: list[tuple[int, ...] | None] = [None] * rank
    names_o: list[tuple[int, ...] | None] = [None] * rank
    loops: list[Axis] = [x.axes[lhs[0]], kernel.axes[rhs[1]]]
    names_x[lhs[0]] = names_o[out_spec[0]] = (0,)
    names_k[rhs[1]] = (1,)
    if pair.params["batch_group_count"] != 1:
        return _plain_contraction(scales, pair)
    if pair.notes["loops"] is None:
        names_x[lhs[1]] = (1,)
        loops.append(kernel.axes[rhs[0]])
        names_k[rhs[0]] = names_o[out_spec[1]] = (2,)
    else:
        groups, each = pair.notes["loops"]
        loops += [groups, each]
        names_x[lhs[1]] = (2, 1)
        names_k[rhs[0]] = names_o[out_spec[1]] = (2, 3)
    return contract(
        scales, pair, loops, [(x, names_x), (kernel, names_k)], (pair.outs[0], names_o), [1]
    )


def _plain_contraction(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.ins:
        scales.pin(pair, v)
    scales.plain(pair.outs[0])


def sum_axes(pair: EquationPair) -> None:
    pair.check_same_params()
    gone = pair.params["axes"]
    pair.new_out(0, [a for d, a in enumerate(pair.ins[0].axes) if d not in gone])


def sum_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    x, gone = pair.ins[0], pair.params["axes"]
    kept = [(d,) for d in range(len(x.axes)) if d not in gone]
    contract(
        scales,
        pair,
        x.axes,
        [(x, [(d,) for d in range(len(x.axes))])],
        (pair.outs[0], kept),
        list(gone),
    )


def ragged_axes(pair: EquationPair) -> None:
    """`ragged_dot_general`: rows in groups, one matrix per group. The rows must not grow."""
    pair.check_same_params("preferred_element_type")
    numbers = pair.params["ragged_dot_dimension_numbers"]
    (contract_a, contract_b), (batch_a, batch_b) = numbers.dot_dimension_numbers
    a, b, sizes = pair.ins
    rows, groups = list(numbers.lhs_ragged_dimensions), list(numbers.rhs_group_dimensions)
    hint = "do not grow the axis that is divided into groups (rows, experts)"
    if len(groups) != 1 or set(rows) & {*contract_a, *batch_a}:
        for v in pair.ins:
            pair.refuse_growth(
                v, range(len(v.axes)), "a ragged contraction of this kind cannot grow", hint
            )
        pair.notes["plain"] = True
        pair.new_out(0)
        return
    pair.refuse_growth(a, rows, "the rows of a ragged contraction grow", hint)
    pair.refuse_growth(b, groups, "the groups of a ragged contraction grow", hint)
    pair.refuse_growth(sizes, range(len(sizes.axes)), "the group sizes grow", hint)
    for i, j in [*zip(contract_a, contract_b, strict=True), *zip(batch_a, batch_b, strict=True)]:
        pair.unify(a.axes[i], b.axes[j])
    free_a = [d for d in range(len(a.axes)) if d not in (*contract_a, *batch_a)]
    free_b = [d for d in range(len(b.axes)) if d not in (*contract_b, *batch_b, *groups)]
    pair.new_out(0, [a.axes[d] for d in (*batch_a, *free_a)] + [b.axes[d] for d in free_b])


def ragged_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    if pair.notes.get("plain"):
        return _plain_contraction(scales, pair)
    numbers = pair.params["ragged_dot_dimension_numbers"]
    (contract_a, contract_b), (batch_a, batch_b) = numbers.dot_dimension_numbers
    a, b, sizes = pair.ins
    scales.pin(pair, sizes)
    loops: list[Axis] = list(a.axes)
    names: list[tuple[int, ...] | None] = [None] * len(b.axes)
    for i, j in [*zip(contract_a, contract_b, strict=True), *zip(batch_a, batch_b, strict=True)]:
        names[j] = (i,)
    free_b = [
        d for d in range(len(b.axes)) if names[d] is None and d not in numbers.rhs_group_dimensions
    ]
    for d in free_b:
        names[d] = (len(loops),)
        loops.append(b.axes[d])
    free_a = [d for d in range(len(a.axes)) if d not in (*contract_a, *batch_a)]
    out = [(d,) for d in (*batch_a, *free_a)] + [names[d] for d in free_b]
    contract(
        scales,
        pair,
        loops,
        [(a, [(d,) for d in range(len(a.axes))]), (b, names)],
        (pair.outs[0], out),
        list(contract_a),
    )
    return None


RULES = {
    "ragged_dot_general": Rule(ragged_axes, ragged_scales),
    "dot_general": Rule(dot_axes, dot_scales),
    "conv_general_dilated": Rule(conv_axes, conv_scales),
    "reduce_sum": Rule(sum_axes, sum_scales),
}
