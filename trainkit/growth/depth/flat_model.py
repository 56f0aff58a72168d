"""The two models as depth looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from trainkit.growth.ir.program import Program

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class FlatModel(NamedTuple):
    """One of the two models: its flat program, and the shapes of its parameters in their order."""

    program: Program
    shapes: dict[str, Shape]

    def as_used(self) -> dict[str, Shape]:
        """The leaves in the order in which the program comes upon them."""
        number = {id(v): i for i, v in enumerate(self.program.ins)}
        seen = [number[id(v)] for e in self.program.equations for v in e.ins if id(v) in number]
        names = list(self.shapes)
        first = dict.fromkeys(names[i] for i in seen if i < len(names))
        return {name: self.shapes[name] for name in [*first, *names]}
