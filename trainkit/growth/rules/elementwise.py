"""Element by element: every operand has the result's axes, a size of one, or no axes at all."""

from __future__ import annotations

from functools import partial

import numpy as np

from trainkit.growth.analysis import signs
from trainkit.growth.analysis.joint_program import Joint, Rule, Value
from trainkit.growth.analysis.row_means import constant_along, keys, of_product, of_sum, taken_away
from trainkit.growth.analysis.scales import Flow
from trainkit.growth.axes.axis import find


def axes(joint: Joint, *ignored: str) -> None:
    joint.same_told("weak_type", "new_dtype", *ignored)
    rank = max(len(v.axes) for v in joint.ins)
    out_axes = []
    for d in range(rank):
        found = None
        for v in joint.ins:
            if not v.axes:
                continue
            axis = find(v.axes[d])
            if axis.small == axis.big == 1:
                found = found or axis
                continue
            if found is None or (find(found).small == find(found).big == 1):
                found = axis
            else:
                joint.unify(found, axis)
        assert found is not None  # one operand has the rank
        out_axes.append(found)
    for i in range(len(joint.small.outs)):
        joint.new_out(i, out_axes)


def nonlinear(flow: Flow, joint: Joint) -> None:
    """f(c·x) has no scale to give: operands must be plain copies, and so is the result."""
    for v in joint.ins:
        flow.pin(joint, v)
    if joint.name in _UNBOUNDED:
        for v in joint.ins:
            flow.refuse_hollow(joint, v)
    if joint.name in _FROM_ZERO or joint.name in _AROUND_ZERO:
        _in_domain(flow, joint, joint.ins[0], above=joint.name in _FROM_ZERO)
    for v in joint.outs:
        flow.plain(v)
        if joint.name in KEEPS_ZERO:
            v.zeros = dict(joint.ins[0].zeros)


def linear(flow: Flow, joint: Joint) -> None:
    """f(c·x) = c·f(x), element by element and additive."""
    flow.elementwise(joint, joint.ins, joint.outs[0], [1.0])
    joint.outs[0].origin = joint.ins[0].origin
    joint.outs[0].means = of_product(flow.makers, joint.ins, joint.outs[0], flow.rows)


def _in_domain(flow: Flow, joint: Joint, x: Value, *, above: bool) -> None:
    """New units hold a number that the function takes: 0, or (`above`) one that is known not to be
    negative. What they hold is read with 0, and 0 times what is no number is none."""
    if above and signs.sign(x) >= signs.NOT_NEGATIVE:
        return
    for d, uid in flow.hollow(x):
        if (d, uid) in flow.read(x).zeros:
            flow.need(x.zeros[d, uid], joint, [x.axes[d]])
        else:
            flow.refuse_hollow(joint, x, [d])


def homogeneous(power: float, flow: Flow, joint: Joint) -> None:
    """f(c·x) = cᵖ·f(x) for c > 0."""
    if joint.name == "sqrt":
        _in_domain(flow, joint, joint.ins[0], above=True)
    flow.power(joint, power)


def sign(flow: Flow, joint: Joint) -> None:
    """f(c·x) = f(x) for c > 0."""
    flow.carries_nothing(joint.ins[0])
    flow.read(joint.ins[0])
    flow.plain(joint.outs[0])


def multiply(flow: Flow, joint: Joint) -> None:
    flow.elementwise(joint, joint.ins, joint.outs[0], [1.0, 1.0])
    joint.outs[0].means = of_product(flow.makers, joint.ins, joint.outs[0], flow.rows)


def divide(flow: Flow, joint: Joint) -> None:
    if np.issubdtype(joint.outs[0].dtype, np.integer):
        return nonlinear(flow, joint)  # rounds towards zero
    flow.carries_nothing(joint.ins[1])
    flow.elementwise(joint, joint.ins, joint.outs[0], [1.0, -1.0])
    out = joint.outs[0]
    if all(constant_along(flow.makers, joint.ins[1], d) for d, _ in keys(out, flow.rows)):
        out.means = of_product(flow.makers, joint.ins, out, flow.rows)


def add(flow: Flow, joint: Joint) -> None:
    if _shifted(flow, joint):
        return
    out = joint.outs[0]
    for v in joint.ins:
        if guards(v):
            flow.read(v).scale[...] = None
    flow.agree(joint, joint.ins, out)
    out.means = of_sum(flow.makers, joint.ins, out, flow.rows)
    if joint.name == "sub":
        out.zeros.update(taken_away(flow.makers, joint, flow.rows))


def guards(v: Value) -> bool:
    """Whether a term only keeps a denominator from being 0, and is lost beside any other number."""
    if v.const is None or not np.issubdtype(v.dtype, np.floating):
        return False
    numbers = [c.uniform for c in v.const]
    return all(n is not None and 0 < float(n) <= 1.001e-20 for n in numbers)


def largest(flow: Flow, joint: Joint) -> None:
    """max, min: homogeneous in their operands together, but not linear."""
    for v in joint.ins:
        flow.carries_nothing(v)
    flow.agree(joint, joint.ins, joint.outs[0])


def compare(flow: Flow, joint: Joint) -> None:
    largest(flow, joint)
    flow.plain(joint.outs[0])


def convert(flow: Flow, joint: Joint) -> None:
    small, new = joint.ins[0].dtype, joint.params["new_dtype"]
    floats = np.issubdtype(new, np.inexact) or "float" in str(new)
    if floats and small != np.bool_:
        return linear(flow, joint)
    if not floats and not ("float" in str(small) or np.issubdtype(small, np.inexact)):
        return linear(flow, joint) if small != np.bool_ else nonlinear(flow, joint)
    return nonlinear(flow, joint)


def integer_power(flow: Flow, joint: Joint) -> None:
    flow.power(joint, float(joint.params["y"]))


def power(flow: Flow, joint: Joint) -> None:
    """x**y is homogeneous where y is one constant."""
    base, exponent = joint.ins
    const = exponent.const
    if const is not None and const[0].uniform is not None and const[1].uniform is not None:
        y = float(const[0].uniform)
        if y == float(const[1].uniform):
            flow.carries_nothing(base)
            if y > 0 and not y.is_integer():
                _in_domain(flow, joint, base, above=True)
            return flow.elementwise(joint, [base], joint.outs[0], [y])
    return nonlinear(flow, joint)


def clamp(flow: Flow, joint: Joint) -> None:
    largest(flow, joint)


def select(flow: Flow, joint: Joint) -> None:
    which, *cases = joint.ins
    flow.pin(joint, which)
    out = joint.outs[0]
    flow.agree(joint, cases, out)
    if all(constant_along(flow.makers, which, d) for d, _ in keys(out, flow.rows)):
        out.means = of_sum(flow.makers, cases, out, flow.rows)


def complex_pair(flow: Flow, joint: Joint) -> None:
    flow.agree(joint, joint.ins, joint.outs[0])


def _shifted(flow: Flow, joint: Joint) -> bool:
    """A parameter that is only used as w + 1 grows as w′ = c·(w + 1) − 1, so that it can scale."""
    if joint.name != "add":
        return False
    for param in joint.ins:
        if param.origin in flow.shiftable:
            flow.shift[param.origin] = flow.shiftable[param.origin]
            flow.elementwise(joint, [param], joint.outs[0], [1.0])
            return True
    return False


_NONLINEAR = [
    "exp", "exp2", "log", "log1p", "expm1", "tanh", "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "asinh", "acosh", "atanh", "logistic", "erf", "erfc", "erf_inv", "lgamma",
    "digamma", "is_finite", "floor", "ceil", "round", "not", "and", "or", "xor", "shift_left",
    "shift_right_logical", "shift_right_arithmetic", "population_count", "clz", "nextafter",
    "rem", "atan2", "igamma", "igammac", "bessel_i0e", "bessel_i1e",
    "regularized_incomplete_beta", "polygamma", "random_gamma_grad", "zeta",
]  # fmt: skip
LINEAR = ["neg", "real", "imag", "conj", "reduce_precision"]
KEEPS_ZERO = {
    "tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "erf", "expm1", "log1p", "floor",
    "ceil", "round", "convert_element_type",
}  # fmt: skip
_UNBOUNDED = {
    "log", "lgamma", "digamma", "erf_inv", "acosh", "atanh", "pow", "rem", "div", "tan",
    "polygamma", "zeta", "igamma", "igammac", "regularized_incomplete_beta", "random_gamma_grad",
}  # fmt: skip
_FROM_ZERO, _AROUND_ZERO = {"log1p"}, {"asin", "acos"}
_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "cbrt": 1 / 3, "square": 2.0, "abs": 1.0}

RULES: dict[str, Rule] = {
    **{name: Rule(axes, nonlinear) for name in _NONLINEAR},
    **{name: Rule(axes, linear) for name in LINEAR},
    **{name: Rule(axes, partial(homogeneous, p)) for name, p in _POWERS.items()},
    **{name: Rule(axes, add) for name in ("add", "sub", "add_any")},
    **{name: Rule(axes, largest) for name in ("max", "min")},
    **{name: Rule(axes, compare) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "stop_gradient": Rule(axes, linear),
    "sign": Rule(axes, sign),
    "mul": Rule(axes, multiply),
    "div": Rule(axes, divide),
    "convert_element_type": Rule(axes, convert),
    "integer_pow": Rule(axes, integer_power),
    "pow": Rule(axes, power),
    "clamp": Rule(axes, clamp),
    "select_n": Rule(axes, select),
    "complex": Rule(axes, complex_pair),
}
