"""Nodes of the union-find: refinement in place, index maps, labels."""

import numpy as np
import pytest

from trainkit.growth.axes.axis import Axis, concatenation, find, product, show
from trainkit.growth.axes.layouts import repeated
from trainkit.growth.axes.queries import coordinates, grown_leaves, labels, source_map
from trainkit.growth.axes.unification import Mismatch, unify


def settle(axis):
    for leaf in grown_leaves(axis):
        leaf.source = repeated(leaf.small, leaf.big)
    return source_map(axis)


def test_a_leaf_takes_the_factors_of_what_it_meets():
    whole, heads, size = Axis(6, 12), Axis(2, 4), Axis(3, 3)
    unify(whole, product([heads, size]))
    assert show(whole) == "2→4·3"
    np.testing.assert_array_equal(settle(whole), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5])
    np.testing.assert_array_equal(coordinates(whole, heads, of_big=True), [np.repeat(range(4), 3)])


def test_coordinates_of_a_leaf_that_occurs_twice():
    n = Axis(2, 3)
    square = concatenation([product([n, n]), n])
    rows, columns = coordinates(square, n, of_big=True)
    np.testing.assert_array_equal(rows, [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 1, 2])
    np.testing.assert_array_equal(columns, [0, 1, 2, 0, 1, 2, 0, 1, 2, -1, -1, -1])
    assert coordinates(square, Axis(2, 3), of_big=False).shape == (0, 6)


def test_two_factorisations_get_a_common_refinement():
    channels = Axis(4, 8)
    unify(channels, product([Axis(2, 4), Axis(2, 2)]))  # heads that grow
    unify(channels, product([Axis(2, 2), Axis(2, 4)]))  # groups that do not
    assert show(channels) == "2·1→2·2"
    np.testing.assert_array_equal(settle(channels), [0, 1, 0, 1, 2, 3, 2, 3])


def test_segments_line_up_and_share_leaves():
    whole, a, b = Axis(7, 12), Axis(3, 6), Axis(4, 6)
    unify(whole, concatenation([a, b]))
    other = Axis(3, 6)
    unify(concatenation([other, Axis(4, 6)]), whole)
    assert find(other) is find(a)
    label, cells = labels(whole)
    np.testing.assert_array_equal(label, [0, 0, 0, 1, 1, 1, 1])
    assert cells == [(find(a),), (find(b),)]


def test_merged_projections_are_cut_through_their_first_factor():
    heads, size = Axis(2, 4), Axis(3, 3)
    third = product([heads, size])
    whole = Axis(18, 36)
    unify(whole, concatenation([third, third, third]))
    rows, inner = Axis(3, 3), product([Axis(2, 4), Axis(3, 3)])
    unify(whole, product([rows, inner]))
    assert len(settle(whole)) == 36
    np.testing.assert_array_equal(settle(whole)[:12], settle(third))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Axis(4, 8), Axis(4, 12)),
        (product([Axis(2, 4), Axis(3, 3)]), product([Axis(3, 6), Axis(2, 2)])),
        (product([Axis(4, 4), Axis(2, 4)]), product([Axis(2, 4), Axis(4, 4)])),
    ],
)
def test_what_has_no_common_structure_is_refused(a, b):
    assert isinstance(unify(a, b), Mismatch)


def test_axes_that_do_not_grow_never_conflict():
    a, b = product([Axis(2, 2), Axis(3, 3)]), product([Axis(3, 3), Axis(2, 2)])
    unify(a, b)
    np.testing.assert_array_equal(source_map(a), np.arange(6))
