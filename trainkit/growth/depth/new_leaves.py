"""What leaves of new layers hold, as data of a plan."""

from __future__ import annotations

import dataclasses
from typing import cast

from trainkit.growth.depth.flat_model import Shape
from trainkit.growth.depth.identity_search import Becomes
from trainkit.growth.ir.simplification.identities import EyeBlock, Supposition
from trainkit.growth.plan.data import Layer, LeafPlan


def holding(layer: Layer, what: Supposition) -> Layer:
    """The layer with what a leaf of it becomes."""
    if isinstance(what, EyeBlock):
        return dataclasses.replace(layer, becomes="eye", start=what.start)
    return dataclasses.replace(layer, becomes=cast(Becomes, what))


def with_rows_of_zeros(leaf: LeafPlan, shape: Shape, start: int) -> LeafPlan:
    """The plan of a matrix with more rows, from that of the rows `start` and on that are a square.

    The zeros that are read besides may be of an axis that grows otherwise, or not at all. They are
    all there before growth, so that nothing has to be known of it.
    """
    more = shape[-2] - leaf.big[-2]
    if not more:
        return leaf
    axis = leaf.axes[-2]
    if axis is not None:
        parts = ("fixed", start), axis.structure, ("fixed", more - start)
        sides = [part != ("fixed", 0) for part in (parts[0], parts[2])]
        count = len(axis.splits)
        around = lambda middle, one: (*(one,) * sides[0], *middle, *(one,) * sides[1])
        axis = dataclasses.replace(
            axis,
            structure=("sum", *(part for part in parts if part != ("fixed", 0))),
            segments=around(axis.segments or (1.0,) * count, 1.0),
            splits=around(axis.splits, ()),
        )
    small = (*leaf.small[:-2], leaf.small[-2] + more, leaf.small[-1])
    axes = (*leaf.axes[:-2], axis, leaf.axes[-1])
    return dataclasses.replace(leaf, small=small, big=shape, axes=axes)
