"""Cases of element-by-element primitives: operands alike, of size one, or without axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules import axis_specs as specs
from tests.growth.rules.harness import POWERS, SCALES, Case, Operand

SEED = st.integers(0, 2**32 - 1)
KINDS = ("free", "free", "free", "plain", "const", "number")
INT, BOOL, COMPLEX = np.int64, np.bool_, np.complex128


@st.composite
def alike(
    draw,
    fn: Callable,
    *values,
    dtypes: Sequence = (),
    kinds: Sequence[str] = KINDS,
    axis=specs.anything,
    tolerance: float = 1e-12,
    ones: bool = True,
    exact: bool = False,
):
    """Operands whose axes are the same in sizes, or 1; each with a structure of its own."""
    axes = [draw(axis) for _ in range(draw(st.integers(1, 2)))]
    operands: list[Operand] = []
    for i, how in enumerate(values):
        mine = tuple(draw(st.sampled_from([a, a, specs.plain(a)])) for a in axes)
        if ones and i and draw(st.integers(0, 4)) == 0:
            mine = tuple(draw(st.sampled_from([1, a])) for a in mine)
        dtype = dtypes[i] if dtypes else np.float64
        only = i == len(values) - 1 and all(o.kind in ("const", "number") for o in operands)
        kind = draw(st.sampled_from([k for k in kinds if not only or k in ("free", "plain")]))
        ratio = draw(st.sampled_from([1.0, 1.0, 0.5, 3.0])) if dtype == np.float64 else 1.0
        operands.append(Operand(mine, how, kind, dtype, ratio))
    if exact:  # equal numbers must stay equal: factors that do not round
        operands = [o._replace(ratio=2.0 if o.ratio == 3.0 else o.ratio) for o in operands]
    return Case(fn, fn, tuple(operands), draw(SEED), tolerance=tolerance,
                scales=POWERS if exact else SCALES)  # fmt: skip


def few(rng, shape):
    """Numbers of which many are equal."""
    return rng.integers(-1, 2, shape)


def above_one(rng, shape):
    return rng.uniform(1.5, 3.0, shape)


def counts(rng, shape):
    return rng.integers(1, 4, shape)


def zeros(rng, shape):
    return np.zeros(shape)


def tiny(rng, shape):
    return np.full(shape, 1e-30)


def half(rng, shape):
    return np.full(shape, 0.5)


def two(rng, shape):
    return np.full(shape, 2.0)


def minus_one(rng, shape):
    return np.full(shape, -1.0)


def mask(rng, shape):
    """−∞ in places, and 0 elsewhere."""
    return np.where(rng.integers(0, 2, shape) > 0, -np.inf, 0.0)


def either(*choices):
    return st.one_of(*choices)


COMPARISONS: dict[str, Callable] = {
    **{name: getattr(lax, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: getattr(lax, f"{name}_p").bind for name in ("eq_to", "lt_to", "le_to")},
}


def add_any(a, b):
    if a.shape != b.shape:
        return lax.add(a, b)
    return jax.linear_transpose(lambda x: (x, x), a)((a, b))[0]


@st.composite
def power_by_number(draw):
    """x**y with one y in both programs, or another one in each."""
    case = draw(alike(lax.pow, "positive", "positive", kinds=("free", "plain"), ones=False))
    how = draw(st.sampled_from([half, two, minus_one]))
    ratio = draw(st.sampled_from([1.0, 1.0, 1.0, 2.0]))
    number = case.operands[1]._replace(values=how, kind="number", ratio=ratio)
    return case._replace(operands=(case.operands[0], number))


@st.composite
def chosen(draw, cases: int):
    """select_n by bits or numbers, one an element or one for all."""
    base = draw(alike(lax.add, *["normal"] * cases, ones=False, kinds=("free", "free", "const")))
    axes, dtype = base.operands[0].axes, BOOL if cases == 2 else np.int32
    which = Operand(
        draw(st.sampled_from([axes, ()])),
        lambda rng, shape: rng.integers(0, cases, shape),
        draw(st.sampled_from(["plain", "free", "const"])),
        dtype,
    )
    return base._replace(small=lax.select_n, big=lax.select_n, operands=(which, *base.operands))


@st.composite
def shifted(draw, then: str):
    """w + 1 where that is all that w is for, and where it is not."""
    base = draw(alike(lax.add, "normal", kinds=("free",)))
    one = base.operands[0]._replace(values=lambda rng, shape: np.ones(shape), kind="number")

    def fn(w, one):
        y = lax.add(w, one)
        if then == "":
            return y
        if then == "multiplied":
            return y, lax.mul(w, one)
        if then == "returned":
            return y, w
        return y, lax.scan(lambda c, _: (c, w), 0.0, None, length=2)[1]  # returned by a loop

    return base._replace(small=fn, big=fn, operands=(base.operands[0], one))


UNARY = {
    "normal": (
        "exp exp2 expm1 tanh sin cos tan atan sinh cosh asinh logistic erf erfc is_finite floor "
        "ceil round bessel_i0e bessel_i1e neg cbrt square abs sign"
    ),
    "positive": "log lgamma digamma sqrt rsqrt",
    "unit": "log1p asin acos atanh erf_inv",
}
ONE = {name: partial(alike, getattr(lax, name), how)
       for how, names in UNARY.items() for name in names.split()}  # fmt: skip
ints = {"kinds": ("free", "plain")}
JAX_ALONE = {"axis": st.sampled_from([2, specs.DOUBLE])}  # what NumPy lacks: few shapes

CASES: dict[str, dict[str, st.SearchStrategy[Case]]] = {
    **{name: {"": make()} for name, make in ONE.items()},
    "acosh": {"": alike(lax.acosh, above_one)},
    "not": {"": alike(lax.bitwise_not, "bool", dtypes=[BOOL])},
    "population_count": {"": alike(lax.population_count, "normal", dtypes=[INT], **JAX_ALONE)},
    "clz": {"": alike(lax.clz, "normal", dtypes=[INT], **JAX_ALONE)},
    **{
        name: {
            "bits": alike(fn, "bool", "bool", dtypes=[BOOL, BOOL]),
            "numbers": alike(fn, "normal", "normal", dtypes=[INT, INT]),
        }
        for name, fn in (
            ("and", lax.bitwise_and), ("or", lax.bitwise_or), ("xor", lax.bitwise_xor),
        )
    },
    **{
        name: {"": alike(fn, counts, counts, dtypes=[INT, INT])}
        for name, fn in (
            ("shift_left", lax.shift_left),
            ("shift_right_logical", lax.shift_right_logical),
            ("shift_right_arithmetic", lax.shift_right_arithmetic),
        )
    },
    "nextafter": {"": alike(lax.nextafter, "normal", "normal")},
    "rem": {
        "": alike(lax.rem, "normal", "positive"),
        "whole": alike(lax.rem, "normal", counts, dtypes=[INT, INT]),
    },
    "atan2": {"": alike(lax.atan2, "normal", "normal")},
    "igamma": {"": alike(lax.igamma, "positive", "positive")},
    "igammac": {"": alike(lax.igammac, "positive", "positive")},
    "polygamma": {"": alike(lax.polygamma, counts, "positive")},
    "zeta": {"": alike(lax.zeta, above_one, "positive")},
    "regularized_incomplete_beta": {
        "": alike(
            lax.betainc, "positive", "positive", lambda rng, shape: rng.uniform(0, 1, shape),
            ones=False,
        )
    },
    "real": {"": alike(lax.real, "normal", dtypes=[COMPLEX])},
    "imag": {"": alike(lax.imag, "normal", dtypes=[COMPLEX])},
    "conj": {"": alike(lax.conj, "normal", dtypes=[COMPLEX])},
    "complex": {"": alike(lax.complex, "normal", "normal", ones=False)},
    "reduce_precision": {"": alike(lambda x: lax.reduce_precision(x, 11, 52), "normal")},
    "add": {
        "": alike(lax.add, "normal", "normal"),
        "zero": alike(lax.add, "normal", zeros),
        "guard": alike(lax.add, "positive", tiny, kinds=("free", "number"), tolerance=1e-9),
        "mask": alike(lax.add, "normal", mask, kinds=("free", "const")),
        "shift": shifted(""),
        "shift, and multiplied": shifted("multiplied"),
        "shift, and returned": shifted("returned"),
        "shift, and returned by a loop": shifted("in a loop"),
    },
    "sub": {"": alike(lax.sub, "normal", "normal"), "zero": alike(lax.sub, zeros, "normal")},
    "add_any": {"": alike(add_any, "normal", "normal", kinds=("free", "plain"), ones=False)},
    "mul": {
        "": alike(lax.mul, "normal", "normal"),
        "zero": alike(lax.mul, "normal", zeros),
        "square": alike(lambda x: lax.mul(x, x), "normal", kinds=("free", "plain")),
    },
    "div": {
        "": alike(lax.div, "normal", "positive"),
        "whole": alike(lax.div, "normal", counts, dtypes=[INT, INT]),
    },
    "max": {"": alike(lax.max, "normal", "normal"), "zero": alike(lax.max, "normal", zeros)},
    "min": {"": alike(lax.min, "normal", "normal"), "zero": alike(lax.min, zeros, "normal")},
    **{
        name: {
            "": alike(fn, few, few, exact=True),
            "zero": alike(fn, few, zeros, exact=True),
            "whole": alike(fn, few, few, dtypes=[INT, INT]),
        }
        for name, fn in COMPARISONS.items()
    },
    "stop_gradient": {"": alike(lax.stop_gradient, "normal")},
    "convert_element_type": {
        "narrower": alike(lambda x: lax.convert_element_type(x, np.float32), "normal",
                          tolerance=1e-6),
        "complex": alike(lambda x: lax.convert_element_type(x, COMPLEX), "normal"),
        "to whole": alike(lambda x: lax.convert_element_type(x, np.int32), "normal"),
        "from whole": alike(lambda x: lax.convert_element_type(x, np.float64), "normal",
                            dtypes=[INT]),
        "whole": alike(lambda x: lax.convert_element_type(x, np.int32), "normal", dtypes=[INT]),
        "from bits": alike(lambda x: lax.convert_element_type(x, np.float64), "bool",
                           dtypes=[BOOL]),
        "to bits": alike(lambda x: lax.convert_element_type(x, np.bool_), few),
        "bits to whole": alike(lambda x: lax.convert_element_type(x, np.int32), "bool",
                               dtypes=[BOOL]),
    },
    "integer_pow": {
        str(y): alike(partial(lambda x, y: lax.integer_pow(x, y), y=y),
                      "positive" if y < 0 else "normal")
        for y in (3, 4, -1, -2)
    },
    "pow": {"": alike(lax.pow, "positive", "normal"), "number": power_by_number()},
    "clamp": {
        "": alike(lax.clamp, minus_one, "normal", two, ones=False),
        "of zero": alike(lax.clamp, zeros, "normal", "positive", ones=False),
    },
    "select_n": {"bits": chosen(2), "numbers": chosen(3)},
}  # fmt: skip
