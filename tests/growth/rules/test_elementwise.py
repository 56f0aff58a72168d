"""What adding a constant says of scales, and where functions are finite in padding units."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.growth.rules.axis_specs import DOUBLE, HALF_MORE
from tests.growth.rules.elementwise_cases import UNARY
from tests.growth.rules.harness import Case, Operand, claimed, settle
from trainkit.growth.errors import GrowthError

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("number", [0.0, 1e-30, 1e-20, 1e-19, 1e-6, -1.0])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_a_tiny_constant_that_is_added_is_no_scale(number, ratio):
    """A guard of at most 1e-20 may be added to what is scaled; another number may not."""
    fn = lambda x, n: (x + n, x)  # what is only used as x + n may grow by a shift
    constant = Operand((), lambda rng, shape: np.full(shape, number), "number", ratio=ratio)
    found = claimed(Case(fn, fn, (Operand((DOUBLE,)), constant), 0, ("repeat",)))
    assert not isinstance(found, GrowthError)
    out = found.outs[0]
    free = any(set(found.scales.system.reduce(e)) - {0} for e in out.scale.flat if e)
    assert free == (abs(number) <= 1e-20)


UNKNOWN = ("tan", "atanh", "erf_inv")  # of which the table does not say that 0 is allowed
ONE = [name for names in UNARY.values() for name in names.split()]


@pytest.mark.parametrize("name", [*ONE, "integer_pow 2", "integer_pow -1"])
def test_padding_units_that_are_summed_over_hold_numbers(name):
    """0 where a function of 0 is a number; no others are accepted, or they hold the mean."""
    name, _, power = name.partition(" ")
    values = next((v for v, names in UNARY.items() if name in names.split()), "normal")
    one = getattr(lax, name)
    act = (lambda x: one(x, int(power))) if power else one
    fn = lambda x, w: act(x).astype(float) @ w
    accepted = 0
    for seed in range(12):
        case = Case(fn, fn, (Operand((2, HALF_MORE), values), Operand((HALF_MORE, 2))), seed,
                    ("append",), tolerance=1e-11)  # fmt: skip
        accepted += settle(case).refused is None
    with np.errstate(all="ignore"):
        finite = np.isfinite(np.asarray(act(jnp.zeros(())), float)) and values != "positive"
    assert accepted or not finite or name in UNKNOWN


def test_factors_that_cancel_but_for_their_rounding():
    """Each factor is rounded by half an ε; eight of them by up to four. A larger one is none."""
    dtype, eps = np.float32, float(np.finfo(np.float32).eps)
    fn = lambda x, *factors: jnp.cos(math.prod(factors, start=x))

    def refused(ratios):
        numbers = [
            Operand((), lambda rng, shape: np.ones(shape), "number", dtype, r) for r in ratios
        ]
        x = Operand((3,), kind="plain", dtype=dtype)
        return isinstance(claimed(Case(fn, fn, (x, *numbers), 0)), GrowthError)

    for seed in range(12):
        logs = np.random.default_rng(seed).normal(size=7)
        ratios = np.exp([*logs, -logs.sum()])
        assert not refused(ratios)
        assert refused([*ratios[:7], ratios[7] * (1 + 40 * eps)])
