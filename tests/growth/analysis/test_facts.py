"""What is known of the values of two programs: signs, constants along axes, parameters w + s."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.growth.analysis.test_solve import joint_program
from tests.growth.ir.unknown import called_back
from trainkit.growth.analysis.scales import row_means
from trainkit.growth.analysis.scales.shifts import shiftable
from trainkit.growth.analysis.scales.signs import Sign, signs
from trainkit.growth.analysis.scales.statistics import UNKNOWN, Statistic, statistics


def joint(fn):
    """Two programs of fn(w, x), of a parameter [3 → 6] and an input [5]."""
    w = lambda n: {"w": jax.ShapeDtypeStruct((n,), jnp.float32)}
    x = jax.ShapeDtypeStruct((5,), jnp.float32)
    return joint_program(lambda params, x: fn(params["w"], x), w(3), w(6), x)


SIGNS = {
    "anything": (lambda w: -w, Sign.UNKNOWN),
    "exponential": (lambda w: jnp.exp(w), Sign.POSITIVE),
    "square": (lambda w: w * w, Sign.NOT_NEGATIVE),
    "norm with ε": (lambda w: jnp.sqrt(jnp.mean(w**2) + 1e-6), Sign.POSITIVE),
    "softmax's sum": (lambda w: jnp.sum(jnp.exp(w - jnp.max(w))), Sign.POSITIVE),
    "tanh of a square": (lambda w: jnp.tanh(w * w), Sign.NOT_NEGATIVE),
    "relu": (lambda w: jnp.maximum(w, 0.0), Sign.NOT_NEGATIVE),
    "a difference": (lambda w: jnp.exp(w) - 1.0, Sign.UNKNOWN),
    "rounded to integers": (lambda w: jnp.exp(w).astype(jnp.int32), Sign.UNKNOWN),
    "integers divided": (
        lambda w: lax.div(jnp.abs(jnp.sign(w).astype(jnp.int32)) + 1, 2), Sign.NOT_NEGATIVE
    ),
    "the square of a complex number": (lambda w: lax.complex(w, w) ** 2, Sign.UNKNOWN),
    "carried, and positive from the second iteration on": (
        lambda w: lax.scan(lambda c, _: (c + jnp.exp(w), None), w**2, None, 3)[0], Sign.POSITIVE
    ),
    "carried, and unknown from the second iteration on": (
        lambda w: lax.scan(lambda c, _: ((c[1], -w), None), (jnp.exp(w), w**2), None, 3)[0][0],
        Sign.UNKNOWN,
    ),
    "one of two cases": (lambda w: lax.cond(w[0] > 0, jnp.exp, jnp.square, w), Sign.NOT_NEGATIVE),
    "rows of a positive array": (
        lambda w: lax.scan(lambda c, x: (c, 2 * x), 0.0, jnp.exp(w)[None])[1], Sign.POSITIVE
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNS)
def test_signs(name):
    fn, wanted = SIGNS[name]
    found = joint(lambda w, x: fn(w))
    facts = signs(found, [Sign.UNKNOWN] * len(found.values))
    assert [facts.of(v) for v in found.outs] == [wanted]


def test_nothing_is_known_of_the_sign_of_what_is_unknown():
    found = joint(lambda w, x: called_back(jnp.exp(x)))
    facts = signs(found, [Sign.POSITIVE] * len(found.values))
    assert [facts.of(v) for v in found.outs] == [Sign.UNKNOWN]


AFFINE, ROOT = Statistic(0), Statistic(0, affine=False)
VECTORS = {
    "the vector": (lambda w, x: w, AFFINE),
    "an input": (lambda w, x: -x, UNKNOWN),
    "moved": (lambda w, x: jnp.broadcast_to(w[None], (2, *w.shape)), AFFINE),
    "a constant added": (lambda w, x: w + 2.0, AFFINE),
    "added to a constant": (lambda w, x: lax.add(jnp.float32(2), w), AFFINE),
    "taken from a constant": (lambda w, x: 2.0 - w, AFFINE),
    "a multiple": (lambda w, x: 2.0 * w * 3.0, AFFINE),
    "a share": (lambda w, x: w / 3.0, AFFINE),
    "an inverse": (lambda w, x: 3.0 / w, UNKNOWN),
    "a constant for each": (lambda w, x: w + jnp.arange(w.size, dtype=w.dtype), UNKNOWN),
    "a sum with an input": (lambda w, x: w + x[0], UNKNOWN),
    "a square": (lambda w, x: w * w, UNKNOWN),
    "a root": (lambda w, x: jnp.sqrt(w / 2.0 + 1e-5), ROOT),
    "the inverse of a root": (lambda w, x: lax.rsqrt(1e-5 + w), ROOT),
    "more than a root": (lambda w, x: lax.rsqrt(w) + 1.0, UNKNOWN),
    "a function": (lambda w, x: jnp.exp(w), UNKNOWN),
    "one of two": (
        lambda w, x: lax.cond(x[0] > 0, lambda v: v + 1.0, lambda v: 2.0 * v, w), AFFINE
    ),
    "one of two others": (lambda w, x: lax.cond(x[0] > 0, jnp.sqrt, lambda v: v, w), UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_affine_functions_of_a_vector_and_their_roots(name):
    fn, wanted = VECTORS[name]
    found = joint(fn)
    assert [statistics(found).of(v) for v in found.outs] == [wanted]


wide = lambda w, x: jnp.broadcast_to(x[0], w.shape)
CONSTANT = {
    "a parameter": (lambda w, x: w, False),
    "repeated": (wide, True),
    "of a mean": (lambda w, x: jnp.broadcast_to(jnp.mean(w), w.shape), True),
    "a function of both": (lambda w, x: w * wide(w, x), False),
    "a function of what is repeated": (lambda w, x: jnp.arctan(jnp.exp(wide(w, x)) + 1.0), True),
    "through many functions": (
        lambda w, x: jax.nn.gelu(jax.nn.gelu(jax.nn.gelu(wide(w, x)))), True
    ),
    "carried by a loop": (
        lambda w, x: lax.scan(lambda c, y: (c * y, None), wide(w, x), x)[0], True
    ),
    "filled by a loop": (
        lambda w, x: lax.scan(
            lambda c, y: ((c[1] * y, w), None), (wide(w, x), wide(w, 2 * x)), x
        )[0][0],
        False,
    ),
    "stacked by a loop": (
        lambda w, x: lax.scan(lambda c, y: (c, jnp.broadcast_to(y, w.shape)), 0.0, x)[1], True
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_along_an_axis(name):
    fn, wanted = CONSTANT[name]
    found = joint(fn)
    (out,) = found.outs
    along = row_means.constant_along(row_means.constants(found), out, len(out.axes) - 1)
    assert along == wanted


def test_rows_that_differ_are_not_constant_along_them():
    found = joint(lambda w, x: lax.scan(lambda c, y: (c, y * jnp.ones_like(w)), 0.0, x)[1])
    (out,) = found.outs
    facts = row_means.constants(found)
    assert [row_means.constant_along(facts, out, d) for d in (0, 1)] == [False, True]


SHIFTS = {
    "1 + w": (lambda w, x: x[0] * (1 + w), 1.0),
    "moved": (lambda w, x: x[:, None] * (2 + w[None]), 2.0),
    "used otherwise too": (lambda w, x: x[0] * (1 + w) * w, None),
    "by two numbers": (lambda w, x: x[0] * (1 + w) * (2 + w), None),
    "by what varies": (lambda w, x: x[0] + w, None),
    "of integers": (lambda w, x: x[0].astype(jnp.int32) * (1 + w.astype(jnp.int32)), None),
    "carried": (lambda w, x: 1 + lax.scan(lambda c, y: (-c, None), w, x)[0], None),
    "closed over by a loop": (
        lambda w, x: lax.scan(lambda c, y: (c * (1 + w), None), jnp.ones_like(w), x)[0], 1.0
    ),
    "rows of a loop": (
        lambda w, x: lax.scan(lambda c, w: (c * (1 + w), None), 0 * w, w[None])[0], None
    ),
    "rows of a loop alone": (
        lambda w, x: lax.scan(lambda c, w: (c * (1 + w), None), jnp.ones_like(w), w[None])[0], 1.0
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHIFTS)
def test_parameters_that_are_used_with_a_number_added(name):
    fn, wanted = SHIFTS[name]
    assert shiftable(joint(fn)) == ({} if wanted is None else {0: wanted})
