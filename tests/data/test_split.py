"""Splits: disjoint, complete, repeatable."""

import numpy as np
import pytest

from trainkit.data import split

DATA = {"x": np.arange(101), "y": np.arange(101) * 2}


def test_every_example_is_in_one_part_and_leaves_stay_in_step():
    parts = split(DATA, validation=0.25, test=0.1, seed=4)
    assert [len(part["x"]) for part in parts] == [66, 25, 10]
    assert sorted(np.concatenate([part["x"] for part in parts])) == list(range(101))
    for part in parts:
        np.testing.assert_array_equal(part["y"], 2 * part["x"])


def test_seeds_choose_the_split():
    again = [split(DATA, seed=seed).validation["x"].tolist() for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_no_validation_leaves_everything_to_train_on():
    parts = split(DATA, validation=0.0)
    assert len(parts.train["x"]) == 101
    assert len(parts.validation["x"]) == len(parts.test["x"]) == 0


@pytest.mark.parametrize("shares", [{"validation": 1.0}, {"test": -0.1}, {"validation": 0.999}])
def test_bad_shares_are_refused(shares):
    with pytest.raises(ValueError, match=r"fraction of the data|none to train on"):
        split(DATA, **shares)
