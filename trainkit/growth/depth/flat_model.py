"""A model as a flat program with named parameters, and the modules that these belong to."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from trainkit.growth.ir.program import Program
from trainkit.growth.ir.simplification.numbered_rows import NumberedRows, apart, numbered_rows

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class FlatModel(NamedTuple):
    """One of the two models: its flat program, and path -> shape of its parameters, in order."""

    program: Program
    shapes: dict[str, Shape]

    def as_used(self) -> dict[str, Shape]:
        """The leaves in the order in which the program first uses them."""
        number = {id(v): i for i, v in enumerate(self.program.ins)}
        seen = [number[id(v)] for e in self.program.equations for v in e.ins if id(v) in number]
        names = list(self.shapes)
        first = dict.fromkeys(names[i] for i in seen if i < len(names))
        return {name: self.shapes[name] for name in [*first, *names]}


Rows = Mapping[str, NumberedRows]  # leaf -> how its rows are picked


def more_rows(small: FlatModel, big: FlatModel) -> tuple[Rows, Rows]:
    """Leaves that have more rows in the big model, all picked by number in both programs."""
    found: tuple[dict[str, NumberedRows], dict[str, NumberedRows]] = {}, {}
    places = [{name: i for i, name in enumerate(model.shapes)} for model in (small, big)]
    axes: dict[int, list[str]] = defaultdict(list)  # axis -> leaves that are longer along it
    for name, shape in big.shapes.items():
        before = small.shapes.get(name, ())
        if len(before) == len(shape):
            for axis in (d for d, (n, m) in enumerate(zip(before, shape, strict=True)) if n < m):
                axes[axis].append(name)
    for axis, names in axes.items():  # one pass over each program for all leaves
        own = numbered_rows(small.program, {places[0][name]: axis for name in names})
        both = [name for name in names if places[0][name] in own and name not in found[0]]
        there = numbered_rows(big.program, {places[1][name]: axis for name in both}) if own else {}
        for name in both:
            if places[1][name] in there:
                found[0][name], found[1][name] = own[places[0][name]], there[places[1][name]]
    return found


def row_by_row(model: FlatModel, rows: Rows) -> FlatModel:
    """The model with a leaf "path/3" for every row of these leaves."""
    shapes: dict[str, Shape] = {}
    for name, shape in model.shapes.items():
        if name in rows:
            axis = rows[name].axis
            rest = (*shape[:axis], *shape[axis + 1 :])
            shapes |= {f"{name}/{i}": rest for i in range(shape[axis])}
        else:
            shapes[name] = shape
    axes = {i: rows[name].axis for i, name in enumerate(model.shapes) if name in rows}
    return FlatModel(apart(model.program, axes), shapes)


def modules(small: FlatModel, big: FlatModel) -> dict[str, list[str]]:
    """Leaf of the big model -> the leaves of the largest module that it is in.

    Modules are subtrees whose names, without numbers, are those of one in the small model. All of a
    module is old, or all of it is new.
    """
    known = {_names(tree) for tree in _subtrees(small).values()}
    result: dict[str, list[str]] = {}
    for leaves in _subtrees(big).values():
        if _names(leaves) in known:
            result |= dict.fromkeys((leaf for leaf in leaves if leaf not in result), leaves)
    return {leaf: result.get(leaf, [leaf]) for leaf in big.shapes}


def without_numbers(leaf: str) -> str:
    """A leaf's path with # for every number."""
    return re.sub(r"\d+", "#", leaf)


def _subtrees(model: FlatModel) -> dict[str, list[str]]:
    """Path -> the leaves below it, short paths first."""
    trees: dict[str, list[str]] = defaultdict(list)
    for leaf in model.shapes:
        keys = leaf.split("/")
        for depth in range(1, len(keys)):
            trees["/".join(keys[:depth])].append(leaf)
    return {path: trees[path] for path in sorted(trees, key=lambda path: path.count("/"))}


def _names(leaves: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(map(without_numbers, leaves)))
