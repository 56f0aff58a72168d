"""Primitives without a rule, and bodies they call: refused where an axis grows, else passed."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tests.growth.rules.axis_specs import DOUBLE, Sum
from tests.growth.rules.harness import Case, Operand, refusal, settle

pytestmark = pytest.mark.usefixtures("x64")

ours = Primitive("ours")  # no table knows it
ours.def_impl(lambda x: np.asarray(x) * 2.0)
ours.def_abstract_eval(lambda x: x)


def called_back(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda v: np.asarray(v) ** 2, shape, x, vmap_method="sequential")


def combined(a, b):
    return a * b + a + b


def reduced(x):
    """A computation that is none of the reductions with a primitive of their own."""
    return lax.reduce(x, np.float64(1.0), combined, (1,))


def pallas(x):
    from jax.experimental import pallas as pl

    def kernel(source, target):
        target[...] = source[...] * 2.0

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x)


NAMES = {"ours": ours.bind, "pure_callback": called_back, "reduce": reduced, "pallas_call": pallas}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axes", [(2, DOUBLE), (DOUBLE, 2)], ids=["last", "first"])
def test_refused_where_an_axis_grows(name, axes):
    error = refusal(Case(NAMES[name], NAMES[name], (Operand(axes),), 0))
    assert f"the primitive `{name}` has no growth rule" in str(error)
    assert error.params == ("x0 (axis 1: 2→4)" if axes[0] == 2 else "x0 (axis 0: 2→4)",)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_let_through_where_nothing_grows(name, seed):
    """Operands take no scale, not even one for each segment, and no shares."""
    verdict = settle(Case(NAMES[name], NAMES[name], (Operand((2, Sum((1, 2)))),), seed))
    assert verdict.refused is None
    assert name in verdict.names


def test_refused_where_the_result_grows_alone():
    def made(n):
        shape = jax.ShapeDtypeStruct((n,), np.float64)
        return lambda x: jax.pure_callback(
            lambda v: np.zeros(n), shape, x, vmap_method="sequential"
        )

    case = Case(made(2), made(4), (Operand((2,)),), 0)
    assert "the result of `pure_callback` grows" in str(refusal(case))


def test_refused_where_the_programs_say_different_things():
    one, two = (lambda x, d=d: lax.reduce(x, np.float64(1.0), combined, (d,)) for d in (0, 1))
    operands = (Operand((2, 2)),)
    assert settle(Case(one, one, operands, 0)).refused is None
    assert "have dimensions=(0,) and dimensions=(1,)" in str(refusal(Case(one, two, operands, 0)))


def on_one_device(x, factor):
    mesh = Mesh(np.array(jax.devices()[:1]), ("i",))
    return jax.shard_map(lambda v: v * factor, mesh=mesh, in_specs=P(), out_specs=P())(x)


def test_refused_where_the_bodies_differ():
    """What doubles is none that triples, though the equations around it are alike."""
    by_two, by_three = (partial(on_one_device, factor=factor) for factor in (2.0, 3.0))
    operands = (Operand((2, 3)),)
    assert settle(Case(by_two, by_two, operands, 0)).refused is None
    assert "bodies of `shard_map`" in str(refusal(Case(by_two, by_three, operands, 0)))


def by_number(x):
    """The solution of (2 + Σx²)·y = x."""
    by = 2.0 + jnp.sum(x * x)
    return lax.custom_linear_solve(lambda y: by * y, x, lambda _, b: b / by, symmetric=True)


def root(x):
    """y with y³ = x, by Newton's method."""

    def solve(f, y):
        return lax.fori_loop(0, 40, lambda _, y: y - f(y) / (3 * y * y), y)

    return lax.custom_root(
        lambda y: y**3 - x, jnp.ones_like(x), solve, lambda g, y: y / g(jnp.ones_like(y))
    )


def callback_within(x):
    return lax.fori_loop(0, 2, lambda _, y: called_back(y), x)


@pytest.mark.parametrize("fn", [by_number, root, callback_within], ids=lambda f: f.__name__)
@pytest.mark.parametrize("axis", [3, DOUBLE], ids=["fixed", "grown"])
def test_bodies_that_are_called_are_walked(fn, axis):
    """Claims hold, or are refused; where nothing grows they are made."""
    verdicts = [settle(Case(fn, fn, (Operand((2, axis), "positive"),), seed, ("repeat", "tile")))
                for seed in range(3)]  # fmt: skip
    assert axis != 3 or all(v.refused is None for v in verdicts)
    if fn is callback_within and axis != 3:
        assert all("no growth rule" in str(v.refused) for v in verdicts)
