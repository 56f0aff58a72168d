"""Several requests for the layout of one axis."""

import itertools

import pytest

from trainkit.growth.analysis.joint_program import Analysis
from trainkit.growth.analysis.layout_search import asked_layouts
from trainkit.growth.axes.axis import Axis
from trainkit.growth.errors import Conflict
from trainkit.growth.rules import RULES

PLACES = (0, 1, 2)  # where "append" leaves the old units


@pytest.mark.parametrize(
    "requests", list(itertools.permutations(["append", "append", PLACES, PLACES], 3))
)
def test_append_gives_way_to_the_same_places(requests):
    """In either order: places are required, and no other layout may be tried for them."""
    axis = Axis(3, 5)
    found = asked_layouts(Analysis(RULES, None), [(axis, layout, None) for layout in requests])
    assert found == {axis.uid: PLACES}


@pytest.mark.parametrize("requests", list(itertools.permutations([PLACES, (0, 1, 3)])))
def test_other_places_are_a_conflict(requests):
    axis = Axis(3, 5)
    found = asked_layouts(Analysis(RULES, None), [(axis, layout, None) for layout in requests])
    assert isinstance(found, Conflict)
    assert "two different layouts are required" in found.why
