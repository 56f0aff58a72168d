"""Axes as data: nested tuples over the numbered parts that grow, and the `Axis` of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trainkit.growth.analysis.layout_search import LAYOUTS
from trainkit.growth.axes.axis import Axis, concatenation, find, product

if TYPE_CHECKING:
    from trainkit.growth.plan.data import Plan


def structure_of(axis: Axis, number: Callable[[Axis], int]) -> tuple:
    """An axis as nested tuples, its grown leaves numbered by `number`."""
    axis = find(axis)
    if axis.kind == "leaf":
        return ("fixed", axis.small) if axis.fixed else ("leaf", number(axis))
    return (axis.kind, *(structure_of(p, number) for p in axis.parts))


def numbers_in(structure: tuple | None) -> set[int]:
    """The numbers of the grown axes in a structure."""
    if structure is None or structure[0] == "fixed":
        return set()
    if structure[0] == "leaf":
        return {structure[1]}
    return set().union(*(numbers_in(s) for s in structure[1:]))


def grown_nodes(plan: Plan) -> list[Axis]:
    """Fresh `Axis` leaves for the grown axes of a plan, their maps set."""
    made = []
    for grown in plan.grown_axes:
        node = Axis(grown.small, grown.big)
        node.source = LAYOUTS[grown.layout](grown.small, grown.big)
        made.append(node)
    return made


def axis_from(structure: tuple, nodes: list[Axis]) -> Axis:
    """The `Axis` that `structure_of` wrote down."""
    kind, *rest = structure
    if kind == "fixed":
        return Axis(rest[0], rest[0])
    if kind == "leaf":
        return nodes[rest[0]]
    parts = [axis_from(s, nodes) for s in rest]
    return product(parts) if kind == "prod" else concatenation(parts)
