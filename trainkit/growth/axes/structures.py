"""Axes as data: conversion between `Axis` and the nested tuples of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from trainkit.growth.axes.axis import Axis, concatenation, find, product
from trainkit.growth.axes.layouts import Layout, index_map


class GrownPart(Protocol):
    """A grown axis of a plan (`GrownAxis`)."""

    @property
    def small(self) -> int: ...

    @property
    def big(self) -> int: ...

    @property
    def layout(self) -> Layout: ...


def structure_of(axis: Axis, number: Callable[[Axis], int]) -> tuple:
    """An axis as nested tuples; `number` gives the number of a grown leaf."""
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


def grown_nodes(grown_axes: Iterable[GrownPart]) -> list[Axis]:
    """New `Axis` leaves for the grown axes of a plan, with their index maps."""
    nodes = []
    for grown in grown_axes:
        node = Axis(grown.small, grown.big)
        node.source = index_map(grown.layout, grown.small, grown.big)
        nodes.append(node)
    return nodes


def axis_from(structure: tuple, nodes: list[Axis]) -> Axis:
    """The inverse of `structure_of`."""
    kind, *rest = structure
    if kind == "fixed":
        return Axis(rest[0], rest[0])
    if kind == "leaf":
        return nodes[rest[0]]
    parts = [axis_from(s, nodes) for s in rest]
    return product(parts) if kind == "prod" else concatenation(parts)
