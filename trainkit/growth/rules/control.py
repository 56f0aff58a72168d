"""Loops and branches: bodies are joined too, and carries have the axes of their initial values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainkit._core.compat import scan_counts
from trainkit.growth.analysis.joint_program import Body, EquationPair, Rule
from trainkit.growth.analysis.scales.index_maps import Group, move
from trainkit.growth.analysis.scales.padding import ALWAYS
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.scales.requirements import multiple_or_other
from trainkit.growth.analysis.values import Renamed, Value
from trainkit.growth.axes.axis import Axis

NO_PASSES = "and no parameter is new that could make the new passes identities"
PASSES = (
    "give every pass a gate of its own in both models, as in h + gate[i] * f(h) in a scan over "
    "gate (1 in the small model's): new entries start at 0, and the growth is exact. Or accept "
    "that the function changes: how='stack' keeps the parameters, and widths grow exactly for "
    "the old passes"
)


def _inside(v: Value, axes: Sequence[Axis] | None = None, cut: bool = False) -> Value:
    """A value of a body with the axes of the operand (without the first, if `cut`)."""
    small, big = (v.small[1:], v.big[1:]) if cut else (v.small, v.big)
    axes = list(v.axes[1:] if cut else v.axes) if axes is None else list(axes)
    made = Value(small, big, v.dtype, axes)
    made.choice = v.choice
    return made


def _link_axes(pair: EquationPair, a: Value, b: Value) -> None:
    for x, y in zip(a.axes, b.axes, strict=True):
        pair.unify(x, y)


def _lengths(pair: EquationPair, stacked: bool) -> None:
    """Refuses a loop that runs more often, unless it may: the function changes."""
    n, m = pair.params["length"], pair.big.params["length"]
    if stacked:
        pair.fail(
            f"a scan runs {n} and {m} times",
            hint="stack the parameters of the layers along the axis that the scan runs over",
        )
    if m < n or not pair.analysis.more_passes:
        why = f"a loop over shared weights makes {n} and {m} passes, {NO_PASSES}"
        pair.fail(why, hint=PASSES)
    pair.analysis.passes = True


def _carried(
    pair: EquationPair, init: Sequence[Value], inside: Sequence[Value], join: Callable[[], Body]
) -> Body:
    """Joins the body of a loop, after which every carry has the axes that it had before.

    It also holds symbols then if it held them before. A carry that begins as the number of a
    symbol, such as 0 for the token before the first, holds symbols if the body writes them.
    """
    asked = len(pair.analysis.forced)
    body = join()
    outs = body.outs[: len(inside)]
    late = [i for i, (a, b) in enumerate(zip(inside, outs, strict=True)) if a.choice != b.choice]
    for i in late:
        if not _stands_for(init[i], outs[i].choice):
            pair.fail(
                f"carry {i} of a loop holds symbols in one pass and other numbers in another, and "
                "symbols have other numbers in the big model (NewInputs.symbols)",
                hint="begin with a symbol, in each model with its own number, or carry the row "
                "that is looked up in place of the symbol",
            )
        inside[i].choice = outs[i].choice
    if late:
        del pair.analysis.forced[asked:]  # the body is joined anew, and asks anew
        body = join()
    for a, b in zip(inside, body.outs[: len(inside)], strict=True):
        _link_axes(pair, a, b)
    return body


def _stands_for(v: Value, symbols: object) -> bool:
    """Whether an initial value is the number of one symbol, in both models."""
    if v.const is None or not isinstance(symbols, Renamed) or symbols.places is None:
        return False
    small, big = (c.uniform for c in v.const)
    known = small is not None and big is not None and 0 <= small < len(symbols.places)
    return bool(known) and symbols.places[int(small)] == big


def scan_axes(pair: EquationPair) -> None:
    pair.check_same_params("_split_transpose", "linear", "ft_in", "ft_out", "length")
    consts, carries = scan_counts(pair.params)
    fixed = pair.ins[:consts]
    init = pair.ins[consts : consts + carries]
    xs = pair.ins[consts + carries :]
    if pair.params["length"] != pair.big.params["length"]:
        _lengths(pair, stacked=bool(xs) or len(pair.small.outs) > carries)
    inside = [_inside(v) for v in init] + [_inside(v, cut=True) for v in xs]
    join = lambda: pair.analysis.body(*pair.both("jaxpr"), [*fixed, *inside])
    body = _carried(pair, init, inside[:carries], join)
    pair.bodies.append(body)
    length = pair.params["length"]
    for i, out in enumerate(body.outs):
        if i < carries:
            pair.new_out(i, inside[i].axes)
        else:
            pair.new_out(i, [Axis(length, length), *out.axes])
        pair.outs[i].choice = out.choice


def _link(scales: ScalePropagation, pair: EquationPair, a: Value, b: Value) -> None:
    """Requires two values with the same axes to have equal scales and shares."""
    scales.agree(pair, [scales.read(a), scales.read(b)], _inside(a))


def _close(
    scales: ScalePropagation, pair: EquationPair, inner: Value, out: Value, result: Value
) -> None:
    """Requires the carry after an iteration to have the facts of the carry before it."""
    if inner.choice is not None:
        return scales.plain(result)
    _link(scales, pair, inner, scales.read(out))
    kept = [(out.zeros, inner.zeros), (out.means, inner.means)]
    if not scales.is_zero(out) and not all(keys.keys() <= found.keys() for found, keys in kept):
        pair.fail(
            "padding units of a carry would not keep their value in the loop",
            axes=[a for a in inner.axes if not a.fixed],
            hint=multiple_or_other(next(a for a in inner.axes if not a.fixed)),
        )
    if not scales.is_zero(out):
        for found, key in [(f, k) for f, keys in kept for k in keys]:
            scales.need(found[key], pair, [inner.axes[key[0]]])
    result.scale, result.exponents = inner.scale, inner.exponents
    result.zeros, result.means = inner.zeros, inner.means


def _enter(scales: ScalePropagation, pair: EquationPair, v: Value, inner: Value) -> None:
    """Assumes that padding units of a carry hold in every iteration what they hold initially."""
    if inner.choice is not None:  # v may be the number of a symbol, which differs
        return scales.plain(inner)
    scales.read(v)
    scales.unknown(inner)
    inner.means = {}
    if scales.is_zero(v):
        inner.zeros = dict.fromkeys(scales.padding(inner), ALWAYS)
        return
    inner.means = dict.fromkeys(v.means, ALWAYS)
    inner.zeros = dict.fromkeys(v.zeros.keys() - v.means.keys(), ALWAYS)
    for found, keys in ((v.means, inner.means), (v.zeros, inner.zeros)):
        for key in keys:
            scales.need(found[key], pair, [v.axes[key[0]]])


def scan_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    consts, carries = scan_counts(pair.params)
    body = pair.bodies[0]
    init, xs = pair.ins[consts : consts + carries], pair.ins[consts + carries :]
    for v in pair.ins[:consts]:
        scales.read(v)
    for v, inner in zip(init, body.ins[consts : consts + carries], strict=True):
        _enter(scales, pair, v, inner)
        if inner.choice is None:
            _link(scales, pair, v, inner)
    for v, inner in zip(xs, body.ins[consts + carries :], strict=True):
        scales.read(v)
        scales.uniform(pair, v, 0)
        if inner.choice is not None:
            scales.plain(inner)
            continue
        groups = [Group((d + 1,), (d,)) for d in range(len(inner.axes))]
        move(scales, pair, inner, [(v, groups)])
        inner.origin = v.origin
    scales.run(body.equations)
    for i, out in enumerate(body.outs):
        scales.read(out)
        if i < carries:
            inner = body.ins[consts + i]
            _close(scales, pair, inner, out, pair.outs[i])
        elif out.choice is not None:
            scales.plain(pair.outs[i])
        else:
            stacked = pair.outs[i]
            groups = [Group((d,), (d + 1,)) for d in range(len(out.axes))]
            move(scales, pair, stacked, [(out, groups)])


def while_axes(pair: EquationPair) -> None:
    pair.check_same_params()
    cond, body = pair.params["cond_nconsts"], pair.params["body_nconsts"]
    carry = pair.ins[cond + body :]
    inside = [_inside(v) for v in carry]
    fixed = pair.ins[cond : cond + body]
    join = lambda: pair.analysis.body(*pair.both("body_jaxpr"), [*fixed, *inside])
    run = _carried(pair, carry, inside, join)
    test = pair.analysis.body(*pair.both("cond_jaxpr"), [*pair.ins[:cond], *inside])
    pair.bodies += [test, run]
    for i, v in enumerate(inside):
        pair.new_out(i, v.axes).choice = v.choice


def while_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    n = pair.params["cond_nconsts"] + pair.params["body_nconsts"]
    test, run = pair.bodies
    inside = run.ins[pair.params["body_nconsts"] :]
    for v in pair.ins[:n]:
        scales.read(v)
    for v, inner in zip(pair.ins[n:], inside, strict=True):
        _enter(scales, pair, v, inner)
        if inner.choice is None:
            _link(scales, pair, v, inner)
    scales.run(test.equations)
    for v in test.outs:
        scales.pin(pair, v)
    scales.run(run.equations)
    for i, (inner, out) in enumerate(zip(inside, run.outs, strict=True)):
        _close(scales, pair, inner, out, pair.outs[i])


def cond_axes(pair: EquationPair) -> None:
    pair.check_same_params("branches")
    branches = zip(*pair.both("branches"), strict=True)
    pair.bodies = [pair.analysis.body(s, b, pair.ins[1:]) for s, b in branches]
    first = pair.bodies[0]
    for body in pair.bodies[1:]:
        for a, b in zip(first.outs, body.outs, strict=True):
            _link_axes(pair, a, b)
    for i, out in enumerate(first.outs):
        if any(body.outs[i].choice != out.choice for body in pair.bodies):
            pair.fail(
                "one branch returns symbols and another one other numbers, and symbols have other "
                "numbers in the big model (NewInputs.symbols)",
                hint="look symbols up inside the branches",
            )
        pair.new_out(i, out.axes).choice = out.choice


def cond_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.ins:
        scales.read(v)
    scales.pin(pair, pair.ins[0])
    for body in pair.bodies:
        scales.run(body.equations)
    for i, out in enumerate(pair.outs):
        if out.choice is not None:
            scales.plain(out)
            continue
        scales.agree(pair, [scales.read(body.outs[i]) for body in pair.bodies], out)


_PLACED = ("shard_map", "pmap", "xla_pmap")
_INSIDE = "plan with the function inside `shard_map` or `pmap`, and grow its parameters before"
_HINT = "do not grow this axis, or write the operation with primitives that have a rule"


def unknown_axes(pair: EquationPair) -> None:
    """A primitive without a rule is accepted if no axis grows."""
    for v in pair.ins:
        pair.refuse_growth(
            v, range(len(v.axes)),
            f"the primitive `{pair.name}` has no growth rule, and an axis of its operand grows",
            _INSIDE if pair.name in _PLACED else _HINT,
        )  # fmt: skip
    random = any(word in pair.name for word in ("random", "threefry", "rng"))
    for a, b in zip(pair.small.outs, pair.big.outs, strict=True):
        if a.aval.shape != b.aval.shape:
            pair.fail(
                f"the result of `{pair.name}` grows, and this primitive has no growth rule",
                hint="plan with dropout and other noise off (deterministic mode)"
                if random
                else _HINT,
            )
    pair.check_same_params()
    for key in pair.params:
        if "jaxpr" in key and len({str(jaxpr) for jaxpr in pair.both(key)}) > 1:
            pair.fail(f"the bodies of `{pair.name}` differ")
    for i in range(len(pair.small.outs)):
        pair.new_out(i)


def unknown_scales(scales: ScalePropagation, pair: EquationPair) -> None:
    for v in pair.ins:
        scales.pin(pair, v)
    for v in pair.outs:
        scales.plain(v)


UNKNOWN = Rule(unknown_axes, unknown_scales)
RULES = {
    "scan": Rule(scan_axes, scan_scales),
    "while": Rule(while_axes, while_scales),
    "cond": Rule(cond_axes, cond_scales),
}
