"""Element by element: every operand has the result's axes, a size of one, or no axes at all."""

from __future__ import annotations

from functools import partial

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales import signs
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.scales.row_means import (
    constant_along,
    keys,
    of_product,
    of_sum,
    taken_away,
)
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import find


def axes(pair: EquationPair, *ignored: str) -> None:
    pair.check_same_params("weak_type", "new_dtype", *ignored)
    rank = max(len(v.axes) for v in pair.ins)
    out_axes = []
    for d in range(rank):
        found = None
        for v in pair.ins:
            if not v.axes:
                continue
            axis = find(v.axes[d])
            if axis.small == axis.big == 1:
                found = found or axis
                continue
            if found is None or (find(found).small == find(found).big == 1):
                found = axis
            else:
                pair.unify(found, axis)
        assert found is not None  # one operand has the rank
        out_axes.append(found)
    for i in range(len(pair.small.outs)):
        pair.new_out(i, out_axes)


def nonlinear(scales: ScalePropagation, pair: EquationPair) -> None:
    """f(c·x) has no scale to give: operands must be plain copies, and so is the result."""
    for v in pair.ins:
        scales.pin(pair, v)
    if pair.name in _UNBOUNDED:
        for v in pair.ins:
            scales.refuse_padding(pair, v)
    if pair.name in _FROM_ZERO or pair.name in _AROUND_ZERO:
        _in_domain(scales, pair, pair.ins[0], above=pair.name in _FROM_ZERO)
    for v in pair.outs:
        scales.plain(v)
        if pair.name in KEEPS_ZERO:
            v.zeros = dict(pair.ins[0].zeros)


def linear(scales: ScalePropagation, pair: EquationPair) -> None:
    """f(c·x) = c·f(x), element by element and additive."""
    scales.elementwise(pair, pair.ins, pair.outs[0], [1.0])
    pair.outs[0].origin = pair.ins[0].origin
    pair.outs[0].means = of_product(scales.producers, pair.ins, pair.outs[0], scales.rows)


def _in_domain(scales: ScalePropagation, pair: EquationPair, x: Value, *, above: bool) -> None:
    """New units hold a number that the function takes: 0, or (`above`) one that is known not to be
    negative. What they hold is read with 0, and 0 times what is no number is none."""
    if above and signs.sign(x) >= signs.NOT_NEGATIVE:
        return
    for d, uid in scales.padding(x):
        if (d, uid) in scales.read(x).zeros:
            scales.need(x.zeros[d, uid], pair, [x.axes[d]])
        else:
            scales.refuse_padding(pair, x, [d])


def homogeneous(power: float, scales: ScalePropagation, pair: EquationPair) -> None:
    """f(c·x) = cᵖ·f(x) for c > 0."""
    if pair.name == "sqrt":
        _in_domain(scales, pair, pair.ins[0], above=True)
    scales.power(pair, power)


def sign(scales: ScalePropagation, pair: EquationPair) -> None:
    """f(c·x) = f(x) for c > 0."""
    scales.pin_exponents(pair.ins[0])
    scales.read(pair.ins[0])
    scales.plain(pair.outs[0])


def multiply(scales: ScalePropagation, pair: EquationPair) -> None:
    scales.elementwise(pair, pair.ins, pair.outs[0], [1.0, 1.0])
    pair.outs[0].means = of_product(scales.producers, pair.ins, pair.outs[0], scales.rows)


def divide(scales: ScalePropagation, pair: EquationPair) -> None:
    if np.issubdtype(pair.outs[0].dtype, np.integer):
        return nonlinear(scales, pair)  # rounds towards zero
    scales.pin_exponents(pair.ins[1])
    scales.elementwise(pair, pair.ins, pair.outs[0], [1.0, -1.0])
    out = pair.outs[0]
    if all(constant_along(scales.producers, pair.ins[1], d) for d, _ in keys(out, scales.rows)):
        out.means = of_product(scales.producers, pair.ins, out, scales.rows)


def add(scales: ScalePropagation, pair: EquationPair) -> None:
    if _shifted(scales, pair):
        return
    out = pair.outs[0]
    for v in pair.ins:
        if guards(v):
            scales.read(v).scale[...] = None
    scales.agree(pair, pair.ins, out)
    out.means = of_sum(scales.producers, pair.ins, out, scales.rows)
    if pair.name == "sub":
        out.zeros.update(taken_away(scales.producers, pair, scales.rows))


def guards(v: Value) -> bool:
    """Whether a term only keeps a denominator from being 0, and is lost beside any other number."""
    if v.const is None or not np.issubdtype(v.dtype, np.floating):
        return False
    numbers = [c.uniform for c in v.const]
    return all(n is not None and 0 < float(n) <= 1.001e-20 for n in numbers)


def largest(scales: ScalePropagation, pair: EquationPair) -> None:
    """max, min: homogeneous in their operands together, but not linear."""
    for v in pair.ins:
        scales.pin_exponents(v)
    scales.agree(pair, pair.ins, pair.outs[0])


def compare(scales: ScalePropagation, pair: EquationPair) -> None:
    largest(scales, pair)
    scales.plain(pair.outs[0])


def convert(scales: ScalePropagation, pair: EquationPair) -> None:
    small, new = pair.ins[0].dtype, pair.params["new_dtype"]
    floats = np.issubdtype(new, np.inexact) or "float" in str(new)
    if floats and small != np.bool_:
        return linear(scales, pair)
    if not floats and not ("float" in str(small) or np.issubdtype(small, np.inexact)):
        return linear(scales, pair) if small != np.bool_ else nonlinear(scales, pair)
    return nonlinear(scales, pair)


def integer_power(scales: ScalePropagation, pair: EquationPair) -> None:
    scales.power(pair, float(pair.params["y"]))


def power(scales: ScalePropagation, pair: EquationPair) -> None:
    """x**y is homogeneous where y is one constant."""
    base, exponent = pair.ins
    const = exponent.const
    if const is not None and const[0].uniform is not None and const[1].uniform is not None:
        y = float(const[0].uniform)
        if y == float(const[1].uniform):
            scales.pin_exponents(base)
            if y > 0 and not y.is_integer():
                _in_domain(scales, pair, base, above=True)
            return scales.elementwise(pair, [base], pair.outs[0], [y])
    return nonlinear(scales, pair)


def clamp(scales: ScalePropagation, pair: EquationPair) -> None:
    largest(scales, pair)


def select(scales: ScalePropagation, pair: EquationPair) -> None:
    which, *cases = pair.ins
    scales.pin(pair, which)
    out = pair.outs[0]
    scales.agree(pair, cases, out)
    if all(constant_along(scales.producers, which, d) for d, _ in keys(out, scales.rows)):
        out.means = of_sum(scales.producers, cases, out, scales.rows)


def complex_pair(scales: ScalePropagation, pair: EquationPair) -> None:
    scales.agree(pair, pair.ins, pair.outs[0])


def _shifted(scales: ScalePropagation, pair: EquationPair) -> bool:
    """A parameter that is only used as w + 1 grows as w′ = c·(w + 1) − 1, so that it can scale."""
    if pair.name != "add":
        return False
    for param in pair.ins:
        if param.origin in scales.shiftable:
            scales.shift[param.origin] = scales.shiftable[param.origin]
            scales.elementwise(pair, [param], pair.outs[0], [1.0])
            return True
    return False


_NONLINEAR = [
    "exp", "exp2", "log", "log1p", "expm1", "tanh", "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "asinh", "acosh", "atanh", "logistic", "erf", "erfc", "erf_inv", "lgamma",
    "digamma", "is_finite", "floor", "ceil", "round", "not", "and", "or", "xor", "shift_left",
    "shift_right_logical", "shift_right_arithmetic", "population_count", "clz", "nextafter",
    "rem", "atan2", "igamma", "igammac", "bessel_i0e", "bessel_i1e",
    "regularized_incomplete_beta", "polygamma", "zeta",
]  # fmt: skip
LINEAR = ["neg", "real", "imag", "conj", "reduce_precision"]
KEEPS_ZERO = {
    "tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "erf", "expm1", "log1p", "floor",
    "ceil", "round", "convert_element_type",
}  # fmt: skip
_UNBOUNDED = {
    "log", "lgamma", "digamma", "erf_inv", "acosh", "atanh", "pow", "rem", "div", "tan",
    "polygamma", "zeta", "igamma", "igammac", "regularized_incomplete_beta",
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
