"""Several requests for the layout of one axis."""

import itertools

import numpy as np
import pytest

from trainkit.growth.analysis.joint_program import Analysis
from trainkit.growth.analysis.layout_requests import request_appended_units
from trainkit.growth.analysis.layout_search import asked_layouts
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, concatenation
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


def parameter(*axes):
    small, big = (tuple(getattr(a, size) for a in axes) for size in ("small", "big"))
    return Value(small, big, np.dtype(float), list(axes))


@pytest.mark.parametrize("pattern", ["^w$", "w|b", "b", "c", ""])
@pytest.mark.parametrize("d", range(-4, 5))
def test_appended_are_the_axes_that_are_named_and_grow(pattern, d):
    """Axes are counted from either end, as in NumPy; a number that is no axis names none."""
    fused = [Axis(2, 4), Axis(3, 3), Axis(1, 2)]
    analysis = Analysis(RULES, None)
    analysis.params = [
        ("w", parameter(Axis(3, 3), Axis(4, 6))),
        ("b", parameter(concatenation(fused))),
    ]
    wanted = {
        ("^w$", 1): [(4, 6)], ("^w$", -1): [(4, 6)], ("b", 0): [(2, 4), (1, 2)],
        ("b", -1): [(2, 4), (1, 2)],
    }  # fmt: skip
    for both in ("w|b", ""):
        wanted |= {(both, e): wanted["^w$", e] for e in (1,)}
        wanted |= {(both, -1): [(4, 6), (2, 4), (1, 2)], (both, 0): [(2, 4), (1, 2)]}
    found = request_appended_units(analysis, [(pattern, d)])
    asked = [(axis.small, axis.big) for axis, layout, _ in analysis.forced if layout == "append"]
    assert asked == wanted.get((pattern, d), [])
    assert (found is not None) == (not asked)
    if found is not None:
        assert f"append=({pattern!r}, {d}) names no axis that grows" in found.why
        named = {"^w$": ("w",), "b": ("b",)}.get(pattern, ("w", "b"))
        assert found.params == named


@pytest.mark.parametrize("wanted", [["w"], [("w",)], [(0, "w")], [("w", 0, 1)]])
def test_requests_are_pairs(wanted):
    with pytest.raises(ValueError, match=r"as \[\('embed', 0\)\]"):
        request_appended_units(Analysis(RULES, None), wanted)
