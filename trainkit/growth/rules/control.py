"""Loops and branches: their bodies are walked in lockstep too, and carries are linked."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.growth.analysis.index_maps import Group, move
from trainkit.growth.analysis.joint_program import Joint, Rule, Value
from trainkit.growth.analysis.padding import ALWAYS
from trainkit.growth.analysis.scales import Flow
from trainkit.growth.axes.axis import Axis
from trainkit.growth.ir.program import scan_counts


def _inside(v: Value, axes: Sequence[Axis] | None = None, cut: bool = False) -> Value:
    """A value of a body that has the operand's axes (without the first, if `cut`)."""
    small, big = (v.small[1:], v.big[1:]) if cut else (v.small, v.big)
    axes = list(v.axes[1:] if cut else v.axes) if axes is None else list(axes)
    return Value(small, big, v.dtype, axes)


def _link_axes(joint: Joint, a: Value, b: Value) -> None:
    if len(a.axes) != len(b.axes):
        joint.fail("a loop's carry changes its rank")
    for x, y in zip(a.axes, b.axes, strict=True):
        joint.unify(x, y)


def scan_axes(joint: Joint) -> None:
    joint.same_told("_split_transpose", "linear", "ft_in", "ft_out")
    consts, carries = scan_counts(joint.params)
    fixed = joint.ins[:consts]
    init = joint.ins[consts : consts + carries]
    xs = joint.ins[consts + carries :]
    if joint.params["length"] != joint.big.params["length"]:
        joint.fail(
            f"a scan runs {joint.params['length']} and {joint.big.params['length']} times",
            hint="grow depth by plan.deepen, width and depth one after the other",
        )
    inside = [_inside(v) for v in init] + [_inside(v, cut=True) for v in xs]
    body = joint.analysis.body(*joint.both("jaxpr"), [*fixed, *inside])
    joint.bodies.append(body)
    for a, b in zip(inside[:carries], body.outs[:carries], strict=True):
        _link_axes(joint, a, b)
    length = joint.params["length"]
    for i, out in enumerate(body.outs):
        if i < carries:
            joint.new_out(i, inside[i].axes)
        else:
            joint.new_out(i, [Axis(length, length), *out.axes])


def _link(flow: Flow, joint: Joint, a: Value, b: Value) -> None:
    """Requires two values with the same axes to have one scale and one split."""
    flow.agree(joint, [flow.read(a), flow.read(b)], _inside(a))


def _close(flow: Flow, joint: Joint, inner: Value, out: Value, result: Value) -> None:
    """What a round gives is what the next one takes."""
    _link(flow, joint, inner, flow.read(out))
    kept = [(out.zeros, inner.zeros), (out.means, inner.means)]
    if not flow.is_zero(out) and not all(keys.keys() <= found.keys() for found, keys in kept):
        joint.fail(
            "new units that hold nothing at first would be filled by the loop",
            axes=[a for a in inner.axes if not a.fixed],
            hint="grow this axis to a multiple, whose copies need no such units, or another axis",
        )
    if not flow.is_zero(out):
        for found, key in [(f, k) for f, keys in kept for k in keys]:
            flow.need(found[key], joint, [inner.axes[key[0]]])
    result.scale, result.carries = inner.scale, inner.carries
    result.zeros, result.means = inner.zeros, inner.means


def _enter(flow: Flow, joint: Joint, v: Value, inner: Value) -> None:
    """A carry holds in its new units in every round what it holds in the first."""
    inner.means = {}
    if flow.is_zero(v):
        inner.zeros = dict.fromkeys(flow.hollow(inner), ALWAYS)
        return
    inner.means = dict.fromkeys(v.means, ALWAYS)
    inner.zeros = dict.fromkeys(v.zeros.keys() - v.means.keys(), ALWAYS)
    for found, keys in ((v.means, inner.means), (v.zeros, inner.zeros)):
        for key in keys:
            flow.need(found[key], joint, [v.axes[key[0]]])


def scan_flow(flow: Flow, joint: Joint) -> None:
    consts, carries = scan_counts(joint.params)
    body = joint.bodies[0]
    init, xs = joint.ins[consts : consts + carries], joint.ins[consts + carries :]
    for v in joint.ins[:consts]:
        flow.read(v)
    for v, inner in zip(init, body.ins[consts : consts + carries], strict=True):
        flow.read(v)
        flow.unknown(inner)
        _enter(flow, joint, v, inner)
        _link(flow, joint, v, inner)
    for v, inner in zip(xs, body.ins[consts + carries :], strict=True):
        flow.read(v)
        flow.uniform(joint, v, 0)
        groups = [Group((d + 1,), (d,)) for d in range(len(inner.axes))]
        move(flow, joint, inner, [(v, groups)])
        inner.origin = v.origin
    flow.run(body.equations)
    for i, out in enumerate(body.outs):
        flow.read(out)
        if i < carries:
            inner = body.ins[consts + i]
            _close(flow, joint, inner, out, joint.outs[i])
        else:
            stacked = joint.outs[i]
            groups = [Group((d,), (d + 1,)) for d in range(len(out.axes))]
            move(flow, joint, stacked, [(out, groups)])


def while_axes(joint: Joint) -> None:
    joint.same_told()
    cond, body = joint.params["cond_nconsts"], joint.params["body_nconsts"]
    carry = joint.ins[cond + body :]
    inside = [_inside(v) for v in carry]
    joint.bodies.append(
        joint.analysis.body(*joint.both("cond_jaxpr"), [*joint.ins[:cond], *inside])
    )
    run = joint.analysis.body(*joint.both("body_jaxpr"), [*joint.ins[cond : cond + body], *inside])
    joint.bodies.append(run)
    for a, b in zip(inside, run.outs, strict=True):
        _link_axes(joint, a, b)
    for i, v in enumerate(inside):
        joint.new_out(i, v.axes)


def while_flow(flow: Flow, joint: Joint) -> None:
    n = joint.params["cond_nconsts"] + joint.params["body_nconsts"]
    test, run = joint.bodies
    inside = run.ins[joint.params["body_nconsts"] :]
    for v in joint.ins[:n]:
        flow.read(v)
    for v, inner in zip(joint.ins[n:], inside, strict=True):
        flow.read(v)
        flow.unknown(inner)
        _enter(flow, joint, v, inner)
        _link(flow, joint, v, inner)
    flow.run(test.equations)
    for v in test.outs:
        flow.pin(joint, v)
    flow.run(run.equations)
    for i, (inner, out) in enumerate(zip(inside, run.outs, strict=True)):
        _close(flow, joint, inner, out, joint.outs[i])


def cond_axes(joint: Joint) -> None:
    joint.same_told("branches")
    branches = zip(*joint.both("branches"), strict=True)
    joint.bodies = [joint.analysis.body(s, b, joint.ins[1:]) for s, b in branches]
    first = joint.bodies[0]
    for body in joint.bodies[1:]:
        for a, b in zip(first.outs, body.outs, strict=True):
            _link_axes(joint, a, b)
    for i, out in enumerate(first.outs):
        joint.new_out(i, out.axes)


def cond_flow(flow: Flow, joint: Joint) -> None:
    for v in joint.ins:
        flow.read(v)
    flow.pin(joint, joint.ins[0])
    for body in joint.bodies:
        flow.run(body.equations)
    for i, out in enumerate(joint.outs):
        flow.agree(joint, [flow.read(body.outs[i]) for body in joint.bodies], out)


_HINT = "keep this axis as it is, or write the operation with primitives that have a rule"


def unknown_axes(joint: Joint) -> None:
    """A primitive without a rule is fine where nothing grows."""
    for v in joint.ins:
        joint.refuse_growth(
            v, range(len(v.axes)),
            f"there is no growth rule for the primitive `{joint.name}`, and an axis of its operand "
            "grows",
            _HINT,
        )  # fmt: skip
    random = any(word in joint.name for word in ("random", "threefry", "rng"))
    for a, b in zip(joint.small.outs, joint.big.outs, strict=True):
        if a.aval.shape != b.aval.shape:
            joint.fail(
                f"the result of `{joint.name}` grows, and there is no growth rule for it",
                hint="plan with dropout and other noise off (deterministic mode)"
                if random
                else _HINT,
            )
    joint.same_told()
    for i in range(len(joint.small.outs)):
        joint.new_out(i)


def unknown_flow(flow: Flow, joint: Joint) -> None:
    for v in joint.ins:
        flow.pin(joint, v)
    for v in joint.outs:
        flow.plain(v)


UNKNOWN = Rule(unknown_axes, unknown_flow)
RULES = {
    "scan": Rule(scan_axes, scan_flow),
    "while": Rule(while_axes, while_flow),
    "cond": Rule(cond_axes, cond_flow),
}
