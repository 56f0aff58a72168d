"""A model as a flat program with named parameters, and the modules that these belong to."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from trainkit.growth.ir.program import Program

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
