"""Tables in a program: a grown one is a duplicate of the old, times a positive number, or refused.

What changes here are copies of old units at even places, which every layout looks at.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth
from trainkit.growth.analysis.constants import exact_ratio

TABLE = np.array([1.0, -2.0, 0.5, 3.0, 0.0, np.inf])
CHANGES = {
    "a duplicate": (lambda t: t, True),
    "three times it": (lambda t: 3 * t, True),
    "a third of it": (lambda t: t / 3, True),
    "its negative": (lambda t: -t, False),
    "one element smaller": (lambda t: np.where(np.arange(12) == 6, t * 0.5, t), False),
    "one element larger": (lambda t: np.where(np.arange(12) == 6, t * 2, t), False),
    "one element of the other sign": (lambda t: np.where(np.arange(12) == 6, -t, t), False),
    "one element 0": (lambda t: np.where(np.arange(12) == 6, 0, t), False),
    "one element no longer 0": (lambda t: np.where(np.arange(12) == 8, 1, t), False),
    "one element not a number": (lambda t: np.where(np.arange(12) == 6, np.nan, t), False),
    "one element finite": (lambda t: np.where(np.isinf(t), 1, t), False),
    "-inf for inf": (lambda t: np.where(np.isinf(t), -np.inf, t), False),
}


@pytest.mark.parametrize("root", [1, 2, 4])
@pytest.mark.parametrize("ratio", [(3, 2), (5, 7), (2, 1)])
def test_a_rounded_ratio_of_sizes_or_a_root_of_one_is_taken_exactly(ratio, root):
    """Square roots come from norms and heads, fourth roots where two sides share one."""
    p, q = ratio
    exact = (np.log(p) - np.log(q)) / root
    rounded = float(np.exp(exact).astype(np.float32))
    eps = float(np.finfo(np.float32).eps)
    assert exact_ratio(rounded, eps) == pytest.approx(exact, rel=1e-14)
    if root > 1:
        assert np.log(rounded) != pytest.approx(exact, rel=1e-12)


def test_another_root_stays_as_it_is():
    assert exact_ratio(1.5 ** (1 / 3), 1e-7) == np.log(1.5 ** (1 / 3))  # no model takes a third


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("name", list(CHANGES))
def test_a_table_is_a_scaled_duplicate_or_refused(name, dtype, x64):
    change, taken = CHANGES[name]
    small = TABLE.astype(dtype)
    big = change(np.repeat(TABLE, 2)).astype(dtype)

    def net(table):
        return lambda p, x: jnp.tanh(jnp.abs((x @ p["in"]).astype(dtype) * table)) @ p["out"]

    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.normal(size=s))
    params = {"in": draw(3, 6), "out": draw(6, 2)}
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float64)
    wide, x = {"in": shape(3, 12), "out": shape(12, 2)}, draw(5, 3)
    plan = lambda: growth.plan(net(small), net(big), params, wide, x)
    if not taken:
        with pytest.raises(growth.GrowthError, match=r"not a duplicate|positive factor"):
            plan()
        return
    grown = plan().grow(params, key=jax.random.key(0))
    np.testing.assert_allclose(net(big)(grown, x), net(small)(params, x), rtol=1e-12)


def test_constants_in_the_body_of_a_loop_are_each_programs_own(x64):
    def net(n):
        share = jnp.asarray(1.0 / n)

        def body(h, _):
            return jnp.tanh(h - h.sum(-1, keepdims=True) * share), None

        return lambda p, x: jax.lax.scan(body, x @ p["in"], None, length=2)[0] @ p["out"]

    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.normal(size=s))
    small, big = ({"in": draw(3, n), "out": draw(n, 2)} for n in (4, 8))
    x = draw(5, 3)
    grown = growth.plan(net(4), net(8), small, big, x).grow(small, key=jax.random.key(0))
    np.testing.assert_allclose(net(8)(grown, x), net(4)(small, x), rtol=1e-11)
