"""Index maps as repeats."""

import numpy as np
import pytest

from trainkit.growth.maps.repeats import repeats


def apply(found, n):
    out = np.arange(n)
    for size, k in found:
        out = np.repeat(out.reshape(-1, 1, size), k, axis=1).reshape(-1)
    return out


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("more_heads", "more_size"), [(2, 1), (1, 3), (2, 2), (4, 3)])
def test_heads_and_head_sizes_repeated_together(heads, size, more_heads, more_size):
    outer = np.repeat(np.arange(heads), more_heads)
    inner = np.repeat(np.arange(size), more_size)
    source = (outer[:, None] * size + inner[None]).reshape(-1)
    found = repeats(source, heads * size)
    assert found is not None
    np.testing.assert_array_equal(apply(found, heads * size), source)


def test_a_tiled_axis_is_one_repeat_of_the_whole():
    assert repeats(np.tile(np.arange(3), 4), 3) == ((3, 4),)


@pytest.mark.parametrize(
    "source", [[0, 0, 1], [0, -1, 1, -1], [0, 1, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]]
)
def test_what_is_no_repeat_is_not_taken_for_one(source):
    assert repeats(np.array(source), 2) is None
