"""Maps for the entries of inputs that a model reads in parts: each part gets its own map."""

import pytest

from trainkit.growth.analysis.input_places import leaf_places
from trainkit.growth.axes.axis import Axis, concatenation, product
from trainkit.growth.errors import Conflict


def two_parts():
    return concatenation([Axis(2, 4), Axis(3, 5)])


@pytest.mark.parametrize(
    ("places", "own"),
    [
        ((0, 1, 4, 5, 6), [(0, 1), (0, 1, 2)]),
        ((2, 0, 4, 8, 5), [(2, 0), (0, 4, 1)]),
    ],
)
def test_places_within_the_parts_are_those_of_each(places, own):
    axis = two_parts()
    assert leaf_places(axis, places) == list(zip(axis.parts, own, strict=True))


@pytest.mark.parametrize(
    ("places", "entry"),
    [
        ((4, 1, 5, 6, 7), 0), ((0, 4, 5, 6, 7), 1), ((0, 1, 4, 2, 5), 1), ((0, 1, 4, 5, 3), 2),
        ((4, 5, 6, 7, 8), 0),
    ],
)  # fmt: skip
def test_the_first_entry_that_would_leave_its_part_is_named(places, entry):
    found = leaf_places(two_parts(), places)
    assert isinstance(found, Conflict)
    assert found.why == f"old entry {entry} of a part would leave it"


def test_rows_move_as_a_whole():
    """Of a flattened matrix with new rows."""
    rows = Axis(2, 4)
    flat = product([rows, Axis(3, 3)])
    assert leaf_places(flat, (6, 7, 8, 3, 4, 5)) == [(rows, (2, 1))]
    found = leaf_places(flat, (7, 6, 8, 3, 4, 5))
    assert isinstance(found, Conflict)
    assert found.why == "the map moves entries between the parts"
