"""Transposed values: what is transposed there and back again is the value itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainkit.growth.ir.program import Equation


class Turns:
    """The transposed values of a program.

    Operands are the variables that stand for them, as in `parts.Parts`.
    """

    def __init__(self) -> None:
        # Id of a variable -> the one that it is transposed from, and the order of its axes there.
        self._from: dict[int, tuple[Any, tuple[int, ...]]] = {}

    def equal(self, eqn: Equation, ins: Sequence[Any]) -> Any:
        """The variable that is transposed back, or `None`."""
        if eqn.name != "transpose":
            return None
        value, order = self._composed(eqn, ins)
        return value if hasattr(value, "aval") and order == tuple(range(len(order))) else None

    def add(self, eqn: Equation, ins: Sequence[Any]) -> None:
        """Notes what a transposed value is transposed from."""
        if eqn.name == "transpose":
            self._from[id(eqn.outs[0])] = self._composed(eqn, ins)

    def _composed(self, eqn: Equation, ins: Sequence[Any]) -> tuple[Any, tuple[int, ...]]:
        order = tuple(eqn.params["permutation"])
        value, before = self._from.get(id(ins[0]), (ins[0], tuple(range(len(order)))))
        return value, tuple(before[d] for d in order)
