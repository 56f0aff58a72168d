"""Primitives without a rule, and what is called by others: nothing is known of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from tests.growth.rules.elementwise_cases import SEED
from tests.growth.rules.harness import Case, Operand

ours = Primitive("ours")  # defined here: no table knows it
ours.def_impl(lambda x: np.asarray(x) * 2.0)
ours.def_abstract_eval(lambda x: x)
mlir.register_lowering(ours, mlir.lower_fun(lambda x: x * 2.0, multiple_results=False))


def twice(x):
    return ours.bind(x)


def called_back(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda v: np.asarray(v) ** 2, shape, x, vmap_method="sequential")


def reduced(x):
    """A monoid that the table of reductions does not have."""
    return lax.reduce(x, np.float64(1.0), lambda a, b: a * b + a + b, (1,))


def rooted(x):
    """A root of y³ = x, by Newton's method."""

    def solve(f, y):
        return lax.fori_loop(0, 60, lambda _, y: y - f(y) / (3 * y * y + 1e-30), y)

    return lax.custom_root(lambda y: y**3 - x, jnp.ones_like(x), solve, lambda g, y: y / g(1.0))


def pallas(x):
    from jax.experimental import pallas as pl

    def kernel(source, target):
        target[...] = source[...] * 2.0

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x)


def solved(x):
    """(2 + x̄)·y = x for a number x̄, by the body that the call brings along."""
    by = 2.0 + jnp.sum(x * x)
    return lax.custom_linear_solve(lambda y: by * y, x, lambda _, b: b / by, symmetric=True)


FUNCTIONS = {
    "ours": twice, "pure_callback": called_back, "reduce": reduced, "pallas_call": pallas,
}  # fmt: skip


@st.composite
def of(draw, fn, axes):
    return Case(fn, fn, (Operand(axes, "positive", draw(st.sampled_from(["free", "plain"]))),),
                draw(SEED))  # fmt: skip
