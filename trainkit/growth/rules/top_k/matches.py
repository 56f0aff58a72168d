"""What reads a one_hot of an index into an axis that grows: see `choice.Match`."""

from __future__ import annotations

import numpy as np

from trainkit.growth.analysis.indices import Match, leaf_of, moved, refuse
from trainkit.growth.analysis.joint_program import Joint, Rule, Value
from trainkit.growth.analysis.scales import Flow
from trainkit.growth.axes.axis import find
from trainkit.growth.axes.reading import grown_leaves
from trainkit.growth.rules import elementwise


def _plain(joint: Joint) -> Rule:
    return joint.analysis.rules[joint.name]


def _match(joint: Joint) -> Match:
    """What the operands' matches have in common; there are no two different ones."""
    found = [v.choice for v in joint.ins if isinstance(v.choice, Match)]
    if len({(m.dims, find(m.axes[0]), find(m.axes[1])) for m in found}) != 1:
        refuse(joint)
    return found[0]


def plain_flow(flow: Flow, joint: Joint) -> None:
    """Where copies match all is as ever."""
    _plain(joint).flow(flow, joint)


def move_axes(joint: Joint) -> None:
    match = _match(joint)
    _plain(joint).axes(joint)
    one, other = (moved(joint, d, a) for d, a in zip(match.dims, match.axes, strict=True))
    joint.outs[0].choice = match._replace(dims=(one, other))


def slice_axes(joint: Joint) -> None:
    match, x = _match(joint), joint.ins[0]
    _plain(joint).axes(joint)
    if any(find(joint.outs[0].axes[d]) is not find(x.axes[d]) for d in match.dims):
        refuse(joint)
    joint.outs[0].choice = match


def elementwise_axes(joint: Joint) -> None:
    match = _match(joint)
    _plain(joint).axes(joint)
    same = joint.name in ("convert_element_type", "stop_gradient", "copy", "and", "or")
    counts = same and all(isinstance(v.choice, Match) and v.choice.counts for v in joint.ins)
    joint.outs[0].choice = match._replace(tight=_stays_zero(joint), counts=counts)


_KEEPS_ZERO = {
    *elementwise.KEEPS_ZERO, *elementwise.LINEAR, "stop_gradient", "abs", "sqrt", "square", "cbrt",
    "sign", "add", "add_any", "sub", "max", "min", "or", "xor", "ne", "lt", "gt",
}  # fmt: skip


def _stays_zero(joint: Joint) -> bool:
    """Whether a result is 0 where its operands' copies do not match."""
    zero = [v.choice.tight if isinstance(v.choice, Match) else _is_zero(v) for v in joint.ins]
    if joint.name in ("mul", "and"):
        return any(zero)
    if joint.name == "div":
        return zero[0]
    if joint.name == "select_n":
        return all(zero[1:]) or (zero[0] and zero[1])
    if joint.name == "integer_pow":
        return zero[0] and joint.params["y"] > 0
    return joint.name in _KEEPS_ZERO and all(zero)


def _is_zero(v: Value) -> bool:
    return v.const is not None and all(
        c.uniform is not None and not np.any(c.uniform) for c in v.const
    )


def _keep(joint: Joint, match: Match, kept: dict[int, int]) -> None:
    """The match of a result that has some of the dimensions; one that lost one has plain copies."""
    found = [kept[d] for d in match.dims if d in kept]
    if len(found) == 2:
        joint.outs[0].choice = match._replace(dims=(found[0], found[1]), counts=False)
    elif not match.tight:
        refuse(joint)


def reduce_axes(joint: Joint) -> None:
    """A sum over one of the two axes has one term for each that there was; see `nest`."""
    match, gone = _match(joint), joint.params["axes"]
    lost = sum(d in gone for d in match.dims)
    if joint.name != "reduce_sum" and (lost != 1 or not match.counts):
        refuse(joint)
    _plain(joint).axes(joint)
    kept = [d for d in range(len(joint.ins[0].axes)) if d not in gone]
    _keep(joint, match, {d: o for o, d in enumerate(kept)})


def dot_axes(joint: Joint) -> None:
    match = _match(joint)
    (i, *more) = [i for i, v in enumerate(joint.ins) if v.choice is not None]
    if more:
        refuse(joint)
    _plain(joint).axes(joint)
    contract, batch = (both[i] for both in joint.params["dimension_numbers"])
    free = [d for d in range(len(joint.ins[i].axes)) if d not in (*contract, *batch)]
    first = len(joint.outs[0].axes) - len(free) if i else len(batch)
    places = {d: o for o, d in enumerate(batch)} | {d: first + o for o, d in enumerate(free)}
    _keep(joint, match, places)


def cumulative_axes(joint: Joint) -> None:
    """A count along one of the axes: the same as before where copies match, anything elsewhere."""
    match, d = _match(joint), joint.params["axis"]
    if d not in match.dims:
        _plain(joint).axes(joint)
        joint.outs[0].choice = match._replace(counts=False)
        return
    joint.same_told()
    axis = joint.ins[0].axes[d]
    if not match.tight or grown_leaves(axis) != [leaf_of(match.axes[match.dims.index(d)])]:
        refuse(joint)
    joint.new_out(0, joint.ins[0].axes)
    joint.outs[0].choice = match._replace(tight=False, counts=False)


def cumulative_flow(flow: Flow, joint: Joint) -> None:
    x, d = joint.ins[0], joint.params["axis"]
    if d not in _match(joint).dims:
        return plain_flow(flow, joint)
    flow.uniform(joint, x, d)
    flow.carries_nothing(x)
    return flow.elementwise(joint, [x], joint.outs[0], [1.0])


RULES: dict[str, Rule] = {
    **{name: Rule(elementwise_axes, plain_flow) for name in elementwise.RULES},
    **{
        name: Rule(move_axes, plain_flow)
        for name in ("transpose", "broadcast_in_dim", "squeeze", "expand_dims", "reshape")
    },
    **{name: Rule(reduce_axes, plain_flow) for name in ("reduce_sum", "reduce_or", "reduce_max")},
    "slice": Rule(slice_axes, plain_flow),
    "dot_general": Rule(dot_axes, plain_flow),
    "cumsum": Rule(cumulative_axes, cumulative_flow),
}
