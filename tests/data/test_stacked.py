"""Batches stacked for one call of several steps."""

import numpy as np
import pytest

from trainkit.data import Sampler
from trainkit.data.stacked import Stacked

DATA = {"x": np.arange(12), "y": np.arange(24).reshape(12, 2)}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_stack_is_the_batches_one_after_another(count):
    stacked, plain = Stacked(Sampler(DATA, 4, seed=1), count), Sampler(DATA, 4, seed=1)
    for _ in range(4):
        batch, examples = next(stacked)
        assert examples == 4 * count
        expected = [next(plain) for _ in range(count)]
        for name in DATA:
            whole = np.stack([b[name] for b in expected]) if count > 1 else expected[0][name]
            np.testing.assert_array_equal(batch[name], whole)
        assert stacked.position == plain.position


def test_a_stream_that_ends_inside_a_stack_ends():
    stacked = Stacked([np.zeros(2)] * 3, 2)
    assert len(list(stacked)) == 1
    assert stacked.position is None


def test_its_place_can_be_restored():
    stacked = Stacked(Sampler(DATA, 4, seed=1), 2)
    next(stacked)
    place = stacked.position
    after = next(stacked)[0]["x"]
    stacked.restore(place)
    np.testing.assert_array_equal(next(stacked)[0]["x"], after)
