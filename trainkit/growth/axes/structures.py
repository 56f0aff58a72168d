"""Axes as data: nested tuples over the numbered parts that grow, and the `Axis` of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from trainkit.growth.axes.axis import Axis, concatenation, find, product
from trainkit.growth.axes.layouts import LAYOUTS


class GrownPart(Protocol):
    """A part of axes that grows by itself, as plans hold it."""

    @property
    def small(self) -> int: ...

    @property
    def big(self) -> int: ...

    @property
    def layout(self) -> str: ...


def structure_of(axis: Axis, number: Callable[[Axis], int]) -> tuple:
    """An axis as nested tuples, its grown leaves numbered by `number`."""
    axis = find(axis)
    if axis.kind == "leaf":
        return ("fixed", axis.small) if axis.fixed else ("leaf", number(axis))
    return (axis.kind, *(structure_of(p, number) for p in axis.parts))


def atoms_in(structure: tuple | None) -> set[int]:
    """The numbers of the AxisLeafs in a structure."""
    if structure is None or structure[0] == "fixed":
        return set()
    if structure[0] == "leaf":
        return {structure[1]}
    return set().union(*(atoms_in(s) for s in structure[1:]))


def atom_axes(atoms: Iterable[GrownPart]) -> list[Axis]:
    """Fresh `Axis` leaves for the atoms of a plan, their maps set."""
    leaves = []
    for atom in atoms:
        leaf = Axis(atom.small, atom.big)
        leaf.source = LAYOUTS[atom.layout](atom.small, atom.big)
        leaves.append(leaf)
    return leaves


def axis_from(structure: tuple, atoms: list[Axis]) -> Axis:
    """The `Axis` that `structure_of` wrote down."""
    kind, *rest = structure
    if kind == "fixed":
        return Axis(rest[0], rest[0])
    if kind == "leaf":
        return atoms[rest[0]]
    parts = [axis_from(s, atoms) for s in rest]
    return product(parts) if kind == "prod" else concatenation(parts)
