"""Budgets and early stopping, as pure functions of numbers."""

import math

import pytest

from trainkit.loop.stopping import Best, Budget, EarlyStopping

USED = {"steps": 10, "epochs": 2.0, "examples": 80, "seconds": 5.0, "flops": 1e9}


@pytest.mark.parametrize("name", USED)
def test_each_limit_ends_the_run_when_it_is_reached(name):
    assert Budget(**{name: USED[name]}).spent(USED).startswith(f"{name}=")
    assert Budget(**{name: 2 * USED[name]}).spent(USED) is None


def test_the_share_is_that_of_the_nearest_limit():
    assert Budget(steps=40, epochs=4).share(USED) == 0.5
    assert Budget(steps=5).share(USED) == 1.0
    assert Budget().share(USED) == 0.0


@pytest.mark.parametrize("name", USED)
@pytest.mark.parametrize("limit", [0, -1, math.nan])
def test_a_limit_that_is_no_limit_is_refused(name, limit):
    with pytest.raises(
        ValueError, match=f"{name} must be .*(greater than 0|at least 1), not {limit}"
    ):
        Budget(**{name: limit})


def follow(values, mode="min", min_delta=0.0):
    best, course = Best(), []
    for step, value in enumerate(values, start=1):
        best = best.after(step, {"m": value, "other": step}, "m", mode, min_delta)
        course.append((best.step, best.waited))
    return course, best


def test_the_best_and_how_long_ago():
    course, best = follow([3, 2, 2, 4, 1])
    assert course == [(1, 0), (2, 0), (2, 1), (2, 2), (5, 0)]
    assert best.metrics == {"m": 1, "other": 5}


def test_larger_can_be_better():
    assert follow([3, 2, 5, 4], mode="max")[0] == [(1, 0), (1, 1), (3, 0), (3, 1)]


def test_small_gains_add_up_against_the_best_not_the_last():
    # Each is .4 better than the one before; the third is .8 better than the first.
    assert follow([2.0, 1.6, 1.2], min_delta=0.5)[0] == [(1, 0), (1, 1), (3, 0)]


def test_exactly_min_delta_is_not_enough():
    assert follow([2.0, 1.5], min_delta=0.5)[0] == [(1, 0), (1, 1)]


def test_nan_is_never_the_best_and_never_stands_in_the_way():
    course, _ = follow([math.nan, 5, math.nan, 4])
    assert course == [(None, 1), (2, 0), (2, 1), (4, 0)]


def test_infinity_can_be_bettered():
    assert follow([math.inf, 5, -math.inf])[0] == [(1, 0), (2, 0), (3, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "lowest"}, "mode must be 'min' or 'max', not 'lowest'"),
        ({"patience": 0}, "patience must be .*not 0"),
        ({"min_delta": -0.1}, "min_delta must be .*not -0.1"),
        ({"min_delta": math.nan}, "min_delta must be .*not nan"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)
