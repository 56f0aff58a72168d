"""Tables in a program: a grown one is a duplicate of the old, times a positive number, or refused.

What changes here are both copies of an old unit, so that every layout looks at one.
"""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from trainkit import growth
from trainkit.growth.analysis import constants
from trainkit.growth.analysis.constants import _ratio, exact_ratio
from trainkit.growth.axes.linear import ZERO, constant
from trainkit.growth.ir.constants import Const

TABLE = np.array([1.0, -2.0, 0.5, 3.0, 0.0, np.inf])
CHANGES = {
    "a duplicate": (lambda t: t, True),
    "three times it": (lambda t: 3 * t, True),
    "a third of it": (lambda t: t / 3, True),
    "its negative": (lambda t: -t, False),
    "one element smaller": (lambda t: np.where(np.arange(12) // 2 == 3, t * 0.5, t), False),
    "one element larger": (lambda t: np.where(np.arange(12) // 2 == 3, t * 2, t), False),
    "one element of the other sign": (lambda t: np.where(np.arange(12) // 2 == 3, -t, t), False),
    "one element 0": (lambda t: np.where(np.arange(12) // 2 == 3, 0, t), False),
    "one element no longer 0": (lambda t: np.where(np.arange(12) // 2 == 4, 1, t), False),
    "one element not a number": (lambda t: np.where(np.arange(12) // 2 == 3, np.nan, t), False),
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


EPS = {np.float64: 2.0**-52, np.float32: 2.0**-23, ml_dtypes.bfloat16: 2.0**-7}
NUMBERS = np.array([1.0, -2.0, 0.0, 4.0])


@pytest.mark.parametrize("dtype", EPS)
def test_a_factor_may_be_rounded_and_no_more(dtype):
    """Each element by a few roundings (in half precision by one in each table); the factor is that
    of most of them."""
    few, many = (0.5, 2) if EPS[dtype] > 1e-6 else (3, 12)
    rounded = lambda by: (1.5 * NUMBERS * (1 + by * EPS[dtype] * np.arange(4))).astype(dtype)
    small = NUMBERS.astype(dtype)
    found = _ratio(small, rounded(few))
    assert isinstance(found, dict)
    np.testing.assert_allclose(found[0], np.log(1.5), rtol=0, atol=10 * EPS[dtype])
    assert _ratio(small, rounded(many)) is False
    assert _ratio(small, small) == ZERO
    assert _ratio(0 * small, 0 * small) is None


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64])
def test_a_complex_factor_must_be_positive(dtype):
    """Numbers whose real parts alone would agree differ, too."""
    small = (NUMBERS * np.array([1, 1j, 1, 1 + 1j])).astype(dtype)
    assert _ratio(small, 2 * small) == constant(np.log(2.0))
    for factor in (-1, 1j, np.exp(1e-3j), 1 + 1e-3j):
        assert _ratio(small, (factor * small).astype(dtype)) is False
    turned = small * np.array([1, 1, 1, 1 + 1e-3j], dtype)
    assert _ratio(small, turned) is False


def test_bits_and_whole_numbers_are_equal_or_scaled():
    yes, no = np.array([True, False]), np.array([False, False])
    assert _ratio(yes, yes) == ZERO
    assert _ratio(no, no) is None
    assert _ratio(yes, no) is False
    assert _ratio(yes, yes[::-1]) is False
    whole = np.array([2, 0, -4])
    np.testing.assert_allclose(_ratio(whole, 3 * whole // 2)[0], np.log(1.5), rtol=1e-15)
    assert _ratio(whole, whole + 1) is False


@pytest.mark.parametrize("sizes", [(), (5,), (3, 4), (1, 7), (2, 3, 4), (0, 3)])
def test_a_table_is_looked_at_once_in_pieces_that_fit(sizes, monkeypatch):
    """Every entry in one piece; a piece has at most `PIECE` entries, or one row."""
    rng = np.random.default_rng(0)
    picked = [rng.permutation(20)[:n] for n in sizes]
    for most in (1, 3, 8, 1000):
        monkeypatch.setattr(constants, "PIECE", most)
        cells = []
        for piece in constants.pieces(picked):
            here = list(itertools.product(*piece))
            assert len(here) <= max(most, np.prod(sizes, dtype=int) // max(sizes, default=1))
            cells += here
        assert sorted(cells) == sorted(itertools.product(*picked))


@pytest.mark.parametrize("core", [(2, 3), (1, 3), (2, 1), (1, 1), (3, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_a_constant_is_0_at_some_places_or_not(core, seed):
    """Looked at where it is stored, which is one entry along an axis on which it repeats."""
    rng = np.random.default_rng(seed)
    shape = tuple(4 if n == 1 else n for n in core)
    stored = rng.integers(0, 2, core) * rng.integers(0, 2, core)
    const = Const(shape, stored.dtype, ("table", seed), lambda: stored, core_shape=core)
    whole = np.broadcast_to(stored, shape)
    for d, n in enumerate(shape):
        for places in (np.arange(n), np.array([n - 1]), np.array([0]), np.array([1, 0])):
            assert constants.zero_at(const, d, places) == (not np.take(whole, places, d).any())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_a_table_of_another_size_is_refused_in_half_precision_too(dtype):
    # 1, 1.25, 1.5, 1.75 beside 1, 1.17, 1.33, 1.5, 1.67, 1.83: 5 % or more, six ε of bfloat16.
    def net(p, x):
        n = p["in"].shape[1]
        table = 1 + jnp.arange(n, dtype=dtype) / jnp.asarray(n, dtype)
        return jnp.tanh((x @ p["in"]).astype(dtype) * table) @ p["out"].astype(dtype)

    params = lambda n: {"in": jnp.ones((3, n)), "out": jnp.ones((n, 2))}
    with pytest.raises(growth.GrowthError):
        growth.plan(net, net, params(4), params(6), jnp.ones((5, 3)))
