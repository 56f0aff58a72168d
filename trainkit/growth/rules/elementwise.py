"""Element-wise primitives. Operands are scalars, or have the axes of the result or size 1."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair, Rule
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.scales.row_means import (
    constant_along,
    keys,
    of_product,
    of_sum,
    taken_away,
)
from trainkit.growth.analysis.scales.signs import NOT_NEGATIVE
from trainkit.growth.analysis.values import Remainder, Value
from trainkit.growth.axes.axis import find
from trainkit.growth.ir.primitives import FIRST, Finite, traits


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


def convert_axes(pair: EquationPair) -> None:
    """The two programs may have other precisions, but not other kinds of numbers."""
    small, big = pair.both("new_dtype")
    if any(jax.dtypes.issubdtype(small, k) != jax.dtypes.issubdtype(big, k) for k in _KINDS):
        pair.fail(
            f"values become {np.dtype(small).name} in the small model and {np.dtype(big).name} in "
            "the big one",
            hint="convert them to the same dtype in both models",
        )
    axes(pair)


def remainder_axes(pair: EquationPair) -> None:
    """Whole numbers, such as indices into a table, have the same remainders in both programs, or
    remainders by a multiple in the big one; see `remainders`."""
    axes(pair)
    by = whole_numbers(pair.ins[1])
    if by is None or by[0] == by[1]:
        return
    small, big = by
    if not 0 < small < big or big % small:
        pair.fail(
            f"remainders are taken by {small} in the small model and by {big} in the big one, so "
            "the same number has another one there: an index finds another entry",
            hint="take the remainder before both models, by the same number in both, or by a "
            f"multiple of {small} ({2 * small}, {3 * small}, …): a table of as many rows repeats",
        )
    signed = np.issubdtype(pair.outs[0].dtype, np.signedinteger)
    pair.outs[0].choice = Remainder(by, "signed" if signed else "inside")


def whole_numbers(v: Value) -> tuple[int, int] | None:
    """The whole number or the bit that all elements of a constant are, in both programs."""
    if v.const is None or not any(jax.dtypes.issubdtype(v.dtype, k) for k in _WHOLE):
        return None
    # A scalar is a computed constant where it is guarded against 0, as by `%`.
    small, big = (c.uniform if c.shape else c.value for c in v.const)
    return None if small is None or big is None else (int(small), int(big))


def nonlinear(scales: ScalePropagation, pair: EquationPair) -> None:
    """A non-linear function: operands must be plain copies, and so is the result."""
    for v in pair.ins:
        scales.pin(pair, v)
    _in_domain(scales, pair, traits(pair).finite)
    for v in pair.outs:
        scales.plain(v)
        if traits(pair).zero == FIRST:
            # Of a remainder by 0 nothing is known, which is let through where units are separate.
            partial = scales.separate if traits(pair).finite is None else ()
            v.zeros = {key: c for key, c in pair.ins[0].zeros.items() if key[1] not in partial}


def _in_domain(scales: ScalePropagation, pair: EquationPair, finite: Finite | None) -> None:
    """Refuses padding units for which the function may not be finite.

    Results in padding units are multiplied by 0 later, and 0 · NaN is NaN.
    """
    for x in pair.ins:
        known = finite == "not negative" and x.const is None
        for d, uid in scales.padding(x):
            safe = finite == "all" or (known and scales.signs.of(x) >= NOT_NEGATIVE)
            if safe or uid in scales.separate:
                continue
            zero = scales.read(x).zeros.get((d, uid))
            if pair.name == "sqrt" and scales.needs_mean(pair, x, affine=True):
                continue
            if finite is None or zero is None:
                scales.refuse_padding(pair, x, [d])
            else:
                scales.need(zero, pair, [x.axes[d]])


def remainder(scales: ScalePropagation, pair: EquationPair) -> None:
    if pair.outs[0].choice is None:
        return nonlinear(scales, pair)
    scales.pin(pair, pair.ins[0])
    return scales.plain(pair.outs[0])


def linear(scales: ScalePropagation, pair: EquationPair) -> None:
    """A linear function of one operand: f(c·x) = c·f(x)."""
    scales.elementwise(pair, pair.ins, pair.outs[0], [1.0])
    pair.outs[0].origin = pair.ins[0].origin
    pair.outs[0].means = of_product(scales.constants, pair.ins, pair.outs[0], scales.rows)


def homogeneous(power: float, scales: ScalePropagation, pair: EquationPair) -> None:
    """f(c·x) = cᵖ·f(x) for c > 0."""
    if power > 0:
        _in_domain(scales, pair, traits(pair).finite)
    scales.power(pair, power)


def sign(scales: ScalePropagation, pair: EquationPair) -> None:
    """f(c·x) = f(x) for c > 0."""
    scales.pin_exponents(pair.ins[0])
    scales.read(pair.ins[0])
    scales.plain(pair.outs[0])


def multiply(scales: ScalePropagation, pair: EquationPair) -> None:
    scales.elementwise(pair, pair.ins, pair.outs[0], [1.0, 1.0])
    pair.outs[0].means = of_product(scales.constants, pair.ins, pair.outs[0], scales.rows)


def divide(scales: ScalePropagation, pair: EquationPair) -> None:
    if jax.dtypes.issubdtype(pair.outs[0].dtype, np.integer):
        return nonlinear(scales, pair)  # rounds towards zero
    scales.pin_exponents(pair.ins[1])
    scales.elementwise(pair, pair.ins, pair.outs[0], [1.0, -1.0])
    out = pair.outs[0]
    if all(constant_along(scales.constants, pair.ins[1], d) for d, _ in keys(out, scales.rows)):
        out.means = of_product(scales.constants, pair.ins, out, scales.rows)


def add(scales: ScalePropagation, pair: EquationPair) -> None:
    if _shifted(scales, pair):
        return
    out = pair.outs[0]
    for v in pair.ins:
        if guards(v):
            scales.read(v).scale[...] = None
    scales.agree(pair, pair.ins, out)
    out.means = of_sum(scales.constants, pair.ins, out, scales.rows)
    if pair.name == "sub":
        out.zeros.update(taken_away(scales.producers, pair, scales.rows))


def guards(v: Value) -> bool:
    """Whether a term is a tiny constant (at most 1e-20), which only prevents a division by 0."""
    if v.const is None or not jax.dtypes.issubdtype(v.dtype, np.floating):
        return False
    numbers = [c.number for c in v.const]
    return all(n is not None and abs(n) <= 1.001e-20 for n in numbers)


def largest(scales: ScalePropagation, pair: EquationPair) -> None:
    """max, min: homogeneous in all operands together, but not linear."""
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
    """x**y is homogeneous in x if y is one constant."""
    base, exponent = pair.ins
    y, other = (None, None) if exponent.const is None else [c.number for c in exponent.const]
    if y is not None and y == other:
        scales.pin_exponents(base)
        if y > 0 and not y.is_integer():
            _in_domain(scales, pair, "not negative")
        return scales.elementwise(pair, [base], pair.outs[0], [y])
    return nonlinear(scales, pair)


def clamp(scales: ScalePropagation, pair: EquationPair) -> None:
    largest(scales, pair)


def select(scales: ScalePropagation, pair: EquationPair) -> None:
    which, *cases = pair.ins
    scales.pin(pair, which)
    out = pair.outs[0]
    scales.agree(pair, cases, out)
    if all(constant_along(scales.constants, which, d) for d, _ in keys(out, scales.rows)):
        out.means = of_sum(scales.constants, cases, out, scales.rows)


def complex_pair(scales: ScalePropagation, pair: EquationPair) -> None:
    scales.agree(pair, pair.ins, pair.outs[0])


def _shifted(scales: ScalePropagation, pair: EquationPair) -> bool:
    """A parameter that is only used as w + s grows as w′ = c·(w + s) − s, so that it can scale."""
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
    "atan2", "igamma", "igammac", "bessel_i0e", "bessel_i1e",
    "regularized_incomplete_beta", "polygamma", "zeta",
]  # fmt: skip
_KINDS = (np.bool_, np.signedinteger, np.unsignedinteger, np.floating, np.complexfloating)
_WHOLE = (np.bool_, np.integer)
_COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to"]
_LINEAR = ["neg", "real", "imag", "conj", "reduce_precision", "stop_gradient"]
_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "cbrt": 1 / 3, "square": 2.0, "abs": 1.0}

RULES: dict[str, Rule] = {
    **{name: Rule(axes, nonlinear) for name in _NONLINEAR},
    **{name: Rule(axes, linear) for name in _LINEAR},
    **{name: Rule(axes, partial(homogeneous, p)) for name, p in _POWERS.items()},
    **{name: Rule(axes, add) for name in ("add", "sub", "add_any")},
    **{name: Rule(axes, largest) for name in ("max", "min")},
    **{name: Rule(axes, compare) for name in _COMPARISONS},
    "sign": Rule(axes, sign),
    "rem": Rule(remainder_axes, remainder),
    "mul": Rule(axes, multiply),
    "div": Rule(axes, divide),
    "convert_element_type": Rule(convert_axes, convert),
    "integer_pow": Rule(axes, integer_power),
    "pow": Rule(axes, power),
    "clamp": Rule(axes, clamp),
    "select_n": Rule(axes, select),
    "complex": Rule(axes, complex_pair),
}
