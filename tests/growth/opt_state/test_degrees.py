"""The powers of a slot in f, c and their norms, measured on two states."""

import itertools

import numpy as np
import pytest

from trainkit.growth.opt_state.degrees import _entries, _powers

KNOWN, NORMS = range(-1, 3), range(-2, 3)  # what occurs in optimizers
RNG = np.random.default_rng(0)
SHAPES = {"w": (3, 3), "b": (3,)}
FACTORS = {
    name: tuple(RNG.uniform(0.6, 1.7, shape) for _ in range(2)) for name, shape in SHAPES.items()
}
BEFORE = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def after(e, d, a=0, b=0, constant=1.0):
    return {
        name: constant * x * f**e * c**d * rms(f) ** a * rms(c) ** b
        for (name, x), (f, c) in zip(BEFORE.items(), FACTORS.values(), strict=True)
    }


@pytest.mark.parametrize(("a", "b"), list(itertools.product(NORMS, repeat=2)))
def test_every_power_that_occurs_is_found(a, b):
    for e, d in itertools.product(KNOWN, repeat=2):
        assert _powers(BEFORE, after(e, d, a, b), FACTORS) == (e, d, a, b)


def one_leaf(found):
    return {"w": found["w"]}


def test_a_constant_of_another_kind_is_none_of_the_norms():
    """A global clip divides all by one number. A power that no rule has counts as such a number."""
    for e, d in itertools.product(KNOWN, repeat=2):
        assert _powers(BEFORE, after(e, d, constant=0.37), FACTORS) == (e, d, 0, 0)
        for a, b in ((-3, 0), (3, 0), (0, -3), (0, 3)):
            found = _powers(one_leaf(BEFORE), one_leaf(after(e, d, a, b)), FACTORS)
            assert found == (e, d, 0, 0)


@pytest.mark.parametrize("powers", [(-2, 0), (3, 0), (0, -2), (0, 3), (0.5, 0)])
def test_other_powers_of_entries_are_left_to_the_table(powers):
    assert _powers(BEFORE, after(*powers), FACTORS) is None


def test_slots_that_scale_in_no_way_are_left_to_the_table():
    scaled = after(1, 0)
    assert _powers(BEFORE, {**scaled, "b": -scaled["b"]}, FACTORS) == (1, 0, 0, 0)
    assert _powers({"b": BEFORE["b"]}, {"b": -scaled["b"]}, FACTORS) is None
    none = {"w": BEFORE["w"] * (np.arange(9) != 4).reshape(3, 3)}
    assert _powers(none, one_leaf(scaled), FACTORS) is None  # 0 in one entry
    assert _powers({"count": BEFORE["w"]}, {"count": scaled["w"]}, FACTORS) is None
    assert _powers({"w": BEFORE["b"]}, {"w": scaled["b"]}, FACTORS) is None  # of another shape
    assert _powers({}, {}, {}) is None
    once = {**scaled, "w": scaled["w"] * np.where(np.arange(9) == 4, 1.1, 1.0).reshape(3, 3)}
    assert _powers(BEFORE, once, FACTORS) is None


@pytest.mark.parametrize("power", [0, 1, 2, -1])
def test_the_power_of_the_number_of_entries(power):
    """Leaves are tiled twice along each axis, and so have 2 and 4 times as many entries."""
    grown = {
        name: np.tile(x, (2,) * x.ndim) * np.sqrt(2.0**x.ndim) ** power
        for name, x in BEFORE.items()
    }
    assert _entries(BEFORE, grown) == power
    assert _entries({"n": np.float64(1)}, {"n": np.float64(5)}) == 0
    assert _entries({"b": np.zeros(3)}, {"b": np.zeros(6)}) == 0
