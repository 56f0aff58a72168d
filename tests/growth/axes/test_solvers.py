"""The equations of scales: solved as they come, and towards the default by weighted L1."""

import math

import pytest

from trainkit.growth.axes.linear import System, constant, plus
from trainkit.growth.axes.solvers import choose, nearest


def test_the_first_equation_that_cannot_hold_is_known():
    system = System()
    x, y = system.variable(), system.variable()
    assert system.require_zero(plus(x, y, -1.0)) == 0.0
    assert system.require_zero(plus(x, constant(math.log(2)))) == 0.0
    assert system.require_zero(plus(y, constant(math.log(2)))) == 0.0
    assert system.require_zero(y) == pytest.approx(-math.log(2))


def test_the_solution_moves_as_few_unknowns_as_it_can():
    # A product of four factors must be 1/2, where their defaults give 1: one of them moves.
    system = System()
    unknowns = [system.variable() for _ in range(4)]
    total = constant(math.log(2))
    for x in unknowns:
        total = plus(total, x)
    system.require_zero(total)
    evaluate = nearest(system, [(x, 0.0, 1.0 + 0.1 * i) for i, x in enumerate(unknowns)])
    values = [evaluate(x) for x in unknowns]
    assert values == pytest.approx([-math.log(2), 0.0, 0.0, 0.0], abs=1e-15)


def test_one_side_of_a_product_carries_the_split():
    system = System()
    q, k, direct = (system.variable() for _ in range(3))
    value, culprits = choose(
        system,
        [(q, -1.0), (k, -1.0), (direct, 0.0)],
        [(plus(q, k), True, 10.0), (direct, False, 10.0)],
    )
    assert not culprits
    assert value(q) + value(k) == 1
    assert value(direct) == 1


def test_what_must_be_split_and_cannot_is_named():
    system = System()
    x = system.variable()
    system.require_zero(x)
    value, culprits = choose(system, [(x, 0.0)], [(x, False, 1.0), (x, True, 1.0)])
    assert value is None
    assert culprits == [1]
