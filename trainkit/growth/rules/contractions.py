"""Sums of products: dot_general, convolutions (grouped and depthwise too), plain sums."""

from __future__ import annotations

from trainkit.growth.analysis.contractions import nest
from trainkit.growth.analysis.joint_program import Joint, Rule, Value
from trainkit.growth.analysis.scales import Flow
from trainkit.growth.axes.axis import Axis, find, product


def dot_axes(joint: Joint) -> None:
    joint.same_told("preferred_element_type")
    (contract_a, contract_b), (batch_a, batch_b) = joint.params["dimension_numbers"]
    a, b = joint.ins
    for i, j in [*zip(contract_a, contract_b, strict=True), *zip(batch_a, batch_b, strict=True)]:
        joint.unify(a.axes[i], b.axes[j])
    free_a = [d for d in range(len(a.axes)) if d not in (*contract_a, *batch_a)]
    free_b = [d for d in range(len(b.axes)) if d not in (*contract_b, *batch_b)]
    joint.new_out(
        0,
        [a.axes[d] for d in (*batch_a, *free_a)] + [b.axes[d] for d in free_b],
    )


def dot_flow(flow: Flow, joint: Joint) -> None:
    (contract_a, contract_b), (batch_a, batch_b) = joint.params["dimension_numbers"]
    a, b = joint.ins
    loops: list[Axis] = list(a.axes)
    names_b: list[int] = [-1] * len(b.axes)
    for i, j in [*zip(contract_a, contract_b, strict=True), *zip(batch_a, batch_b, strict=True)]:
        names_b[j] = i
    free_b = [d for d in range(len(b.axes)) if names_b[d] < 0]
    for d in free_b:
        names_b[d] = len(loops)
        loops.append(b.axes[d])
    free_a = [d for d in range(len(a.axes)) if d not in (*contract_a, *batch_a)]
    nest(
        flow,
        joint,
        loops,
        [(a, [(d,) for d in range(len(a.axes))]), (b, [(n,) for n in names_b])],
        joint.outs[0],
        [(d,) for d in (*batch_a, *free_a)] + [(names_b[d],) for d in free_b],
        list(contract_a),
    )


def _conv(joint: Joint):
    spec = joint.params["dimension_numbers"]
    return spec.lhs_spec, spec.rhs_spec, spec.out_spec


def conv_axes(joint: Joint) -> None:
    lhs, rhs, out = _conv(joint)
    x, kernel = joint.ins
    groups_small, groups_big = joint.both("feature_group_count")
    if joint.both("batch_group_count") != (1, 1):
        for v in (x, kernel):
            joint.refuse_growth(v, range(len(v.axes)), "a convolution with batch groups", None)
        joint.same_told()
        joint.new_out(0)
        return
    joint.refuse_growth(
        x, lhs[2:], "a convolution's window runs over an axis that grows",
        "grow the channels, not the places",
    )  # fmt: skip
    _kernel_axes(joint, kernel, rhs[2:])
    groups = Axis(groups_small, groups_big)
    inner = kernel.axes[rhs[1]]
    outer = kernel.axes[rhs[0]]
    if groups_small == groups_big == 1:
        joint.unify(x.axes[lhs[1]], inner)
        joint.notes["loops"] = None
    else:
        o_small, o_big = find(outer).small, find(outer).big
        each = Axis(o_small // groups_small, o_big // groups_big)
        if each.big < each.small:
            joint.fail("a convolution has fewer channels a group in the big model", axes=(outer,),
                       mend="grow the number of groups together with the channels")  # fmt: skip
        if groups.big < groups.small:
            joint.fail("a convolution has fewer groups in the big model", axes=(outer,))
        joint.unify(x.axes[lhs[1]], product([groups, inner]))
        joint.unify(outer, product([groups, each]))
        joint.notes["loops"] = (groups, each)
    small, big = joint.small.outs[0].aval.shape, joint.big.outs[0].aval.shape
    made = [Axis(n, m) for n, m in zip(small, big, strict=True)]
    made[out[0]] = x.axes[lhs[0]]
    made[out[1]] = outer
    joint.new_out(0, made)


def _kernel_axes(joint: Joint, kernel: Value, window: tuple[int, ...]) -> None:
    """A kernel k → k + 2p is the old one with p zero taps on either side."""
    if all(find(kernel.axes[d]).fixed for d in window):
        joint.same_told("feature_group_count", "batch_group_count", "preferred_element_type")
        return
    joint.same_told("feature_group_count", "batch_group_count", "preferred_element_type", "padding")
    for i, d in enumerate(window):
        axis = find(kernel.axes[d])
        (low, high), (low_big, high_big) = (p[i] for p in joint.both("padding"))
        more = axis.big - axis.small
        each = more // 2 * joint.params["rhs_dilation"][i]
        if more % 2 or (low_big - low, high_big - high) != (each, each):
            joint.fail(
                f"a kernel of {axis.small} becomes one of {axis.big} with the padding "
                f"{(low, high)} → {(low_big, high_big)}: zero taps around the old ones would look "
                "at other places",
                axes=(axis,),
                mend="grow a kernel k to k + 2p with SAME padding at stride 1 (at stride 2 the "
                "padding of SAME depends on the size: from 3 to 5 it works, from 1 to 3 on even "
                "sizes not), or pad both convolutions explicitly by p more on either side",
            )
        if not axis.fixed:
            joint.analysis.force(axis, "centre", joint)


def conv_flow(flow: Flow, joint: Joint) -> None:
    lhs, rhs, out_spec = _conv(joint)
    x, kernel = joint.ins
    rank = len(lhs)
    names_x: list[tuple[int, ...] | None] = [None] * rank
    names_k: list[tuple[int, ...] | None] = [None] * rank
    names_o: list[tuple[int, ...] | None] = [None] * rank
    loops: list[Axis] = [x.axes[lhs[0]], kernel.axes[rhs[1]]]
    names_x[lhs[0]] = names_o[out_spec[0]] = (0,)
    names_k[rhs[1]] = (1,)
    if joint.params["batch_group_count"] != 1:
        return _plain_contraction(flow, joint)
    if joint.notes["loops"] is None:
        names_x[lhs[1]] = (1,)
        loops.append(kernel.axes[rhs[0]])
        names_k[rhs[0]] = names_o[out_spec[1]] = (2,)
    else:
        groups, each = joint.notes["loops"]
        loops += [groups, each]
        names_x[lhs[1]] = (2, 1)
        names_k[rhs[0]] = names_o[out_spec[1]] = (2, 3)
    return nest(flow, joint, loops, [(x, names_x), (kernel, names_k)], joint.outs[0], names_o, [1])


def _plain_contraction(flow: Flow, joint: Joint) -> None:
    for v in joint.ins:
        flow.pin(joint, v)
    flow.plain(joint.outs[0])


def sum_axes(joint: Joint) -> None:
    joint.same_told()
    gone = joint.params["axes"]
    joint.new_out(0, [a for d, a in enumerate(joint.ins[0].axes) if d not in gone])


def sum_flow(flow: Flow, joint: Joint) -> None:
    x, gone = joint.ins[0], joint.params["axes"]
    kept = [(d,) for d in range(len(x.axes)) if d not in gone]
    nest(
        flow,
        joint,
        x.axes,
        [(x, [(d,) for d in range(len(x.axes))])],
        joint.outs[0],
        kept,
        list(gone),
    )


def ragged_axes(joint: Joint) -> None:
    """Rows in groups, a matrix a group: a contraction whose rows do not grow."""
    joint.same_told("preferred_element_type")
    numbers = joint.params["ragged_dot_dimension_numbers"]
    (contract_a, contract_b), (batch_a, batch_b) = numbers.dot_dimension_numbers
    a, b, sizes = joint.ins
    rows, groups = list(numbers.lhs_ragged_dimensions), list(numbers.rhs_group_dimensions)
    mend = "keep the axis that is split into groups (rows, experts) as it is"
    if len(groups) != 1 or set(rows) & {*contract_a, *batch_a}:
        for v in joint.ins:
            joint.refuse_growth(v, range(len(v.axes)), "a ragged contraction of this kind", mend)
        joint.notes["plain"] = True
        joint.new_out(0)
        return
    joint.refuse_growth(a, rows, "rows in groups", mend)
    joint.refuse_growth(b, groups, "a matrix a group", mend)
    joint.refuse_growth(sizes, range(len(sizes.axes)), "sizes of groups", mend)
    for i, j in [*zip(contract_a, contract_b, strict=True), *zip(batch_a, batch_b, strict=True)]:
        joint.unify(a.axes[i], b.axes[j])
    free_a = [d for d in range(len(a.axes)) if d not in (*contract_a, *batch_a)]
    free_b = [d for d in range(len(b.axes)) if d not in (*contract_b, *batch_b, *groups)]
    joint.new_out(0, [a.axes[d] for d in (*batch_a, *free_a)] + [b.axes[d] for d in free_b])


def ragged_flow(flow: Flow, joint: Joint) -> None:
    if joint.notes.get("plain"):
        return _plain_contraction(flow, joint)
    numbers = joint.params["ragged_dot_dimension_numbers"]
    (contract_a, contract_b), (batch_a, batch_b) = numbers.dot_dimension_numbers
    a, b, sizes = joint.ins
    flow.pin(joint, sizes)
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
    nest(
        flow,
        joint,
        loops,
        [(a, [(d,) for d in range(len(a.axes))]), (b, names)],
        joint.outs[0],
        out,
        list(contract_a),
    )
    return None


RULES = {
    "ragged_dot_general": Rule(ragged_axes, ragged_flow),
    "dot_general": Rule(dot_axes, dot_flow),
    "conv_general_dilated": Rule(conv_axes, conv_flow),
    "reduce_sum": Rule(sum_axes, sum_flow),
}
