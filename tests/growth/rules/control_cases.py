"""Cases of loops and branches, and of primitives that have no rule."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.growth.rules import axis_specs as specs
from tests.growth.rules.axis_specs import DOUBLE, HALF_MORE, ODD, Sum
from tests.growth.rules.elementwise_cases import SEED
from tests.growth.rules.harness import Case, Operand

KINDS = st.sampled_from(["free", "free", "plain"])
axis = st.sampled_from([2, DOUBLE, HALF_MORE, ODD, Sum((DOUBLE, 1)), Sum((1, 2))])


def additive(consts, carry, row):
    return carry + row * consts, row


def decayed(consts, carry, row):
    return carry * 0.5 + consts, carry - row


def normed(consts, carry, row):
    return jnp.tanh(carry + consts), jnp.sum(carry * row)


def replaced(consts, carry, row):
    return row, carry * consts


def kept(consts, carry, row):
    return carry, consts + row


BODIES = (additive, decayed, normed, replaced, kept)


@st.composite
def scans(draw, bodies=BODIES):
    d = draw(axis)
    body, backwards = draw(st.sampled_from(bodies)), draw(st.booleans())
    rows = draw(st.sampled_from([3, Sum((1, 2))]))

    def fn(consts, start, xs):
        return lax.scan(lambda c, x: body(consts, c, x), start, xs, reverse=backwards)

    values = draw(st.sampled_from(["normal", lambda rng, shape: np.zeros(shape)]))
    start = Operand((specs.plain(d),), values, draw(st.sampled_from(["free", "plain", "const"])))
    consts = Operand((d,), kind=draw(KINDS))
    return Case(fn, fn, (consts, start, Operand((rows, d), kind=draw(KINDS))), draw(SEED))


def swapping(consts, carry, row):
    a, b = carry
    return (b + row, a * 0.5), a * consts


def feeding(consts, carry, row):
    """The first carry is fed by the second, which is what it was."""
    a, b = carry
    return (b, b), a + row


def product(consts, carry, row):
    a, b = carry
    return (a * consts, b + a * row), b


@st.composite
def two_carries(draw):
    d = draw(axis)
    body = draw(st.sampled_from([swapping, feeding, product]))

    def fn(consts, a, b, xs):
        return lax.scan(lambda c, x: body(consts, c, x), (a, b), xs)

    zeros = lambda rng, shape: np.zeros(shape)
    kinds, values = st.sampled_from(["free", "plain", "const"]), st.sampled_from(["normal", zeros])
    ops = [Operand((d,), draw(values), draw(kinds)) for _ in range(2)]
    consts, xs = Operand((d,), kind=draw(KINDS)), Operand((3, d), kind=draw(KINDS))
    return Case(fn, fn, (consts, *ops, xs), draw(SEED))


@st.composite
def whiles(draw):
    d = draw(axis)
    body = draw(st.sampled_from([
        lambda c, x: x * 0.5, lambda c, x: x + c, lambda c, x: jnp.tanh(x), lambda c, x: c,
    ]))  # fmt: skip

    def fn(c, x, limit):
        return lax.while_loop(
            lambda s: s[0] < limit, lambda s: (s[0] + 1, body(c, s[1])), (jnp.int32(0), x)
        )[1]

    limit = Operand((), lambda rng, shape: 3, draw(st.sampled_from(["same", "free"])), np.int32)
    values = draw(st.sampled_from(["normal", lambda rng, shape: np.zeros(shape)]))
    x = Operand((d,), values, draw(st.sampled_from(["free", "plain", "const"])))
    return Case(fn, fn, (Operand((d,), kind=draw(KINDS)), x, limit), draw(SEED))


@st.composite
def while_looks(draw):
    """The condition looks at the values."""
    fn = lambda x: lax.while_loop(lambda s: jnp.max(s) > 0.1, lambda s: s * 0.5, x)
    return Case(fn, fn, (Operand((draw(axis),), "positive", draw(KINDS)),), draw(SEED))


@st.composite
def conds(draw):
    d = draw(axis)
    branches = [lambda x, y: x + y, lambda x, y: x * 2.0, lambda x, y: jnp.tanh(x) * y,
                lambda x, y: y]  # fmt: skip
    used = draw(st.lists(st.sampled_from(branches), min_size=2, max_size=3))
    fn = lambda i, x, y: lax.switch(i, used, x, y)
    which = Operand((), lambda rng, shape: rng.integers(0, len(used)), "same", np.int32)
    x, y = (Operand((a,), kind=draw(KINDS)) for a in (d, specs.plain(d)))
    return Case(fn, fn, (which, x, y), draw(SEED))


CASES = {
    "scan": {"": scans(), "two carries": two_carries()},
    "while": {"": whiles(), "looks": while_looks()},
    "cond": {"": conds()},
}
