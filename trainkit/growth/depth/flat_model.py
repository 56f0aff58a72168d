"""A model as a flat program with named parameters."""

from __future__ import annotations

from collections.abc import Mapping
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
