"""Values with their axes in another order: what is turned there and back again is the value itself.

Axes of size 1 may come and go on the way. A product with an identity matrix turns a value, too.
What is reshaped there and back is the value as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainkit.growth.ir.program import Equation
from trainkit.growth.ir.simplification.identities import Eye, order_of_product, shape_of

_Order = tuple[int | None, ...]  # for each axis the one that it was, or `None`: it is new, and 1


class Turns:
    """The turned values of a program.

    Operands are the variables that stand for them, as in `parts.Parts`.

    Args:
      keep_eyes: whether products with identity matrices stay; see `partial_evaluation.reduced`.
    """

    def __init__(self, keep_eyes: bool = False) -> None:
        self._keep_eyes = keep_eyes
        self._from: dict[int, tuple[Any, _Order]] = {}  # id of a variable -> what it was

    def equal(self, eqn: Equation, ins: Sequence[Any]) -> Any:
        """The variable that is turned back, or `None`."""
        found = self._composed(eqn, ins)
        if found is None or found[0].aval.shape != eqn.outs[0].aval.shape:
            return None
        value, order = found
        old = [d for d in order if d is not None and value.aval.shape[d] != 1]
        return value if old == sorted(old) else None

    def add(self, eqn: Equation, ins: Sequence[Any]) -> None:
        """Notes what a turned value was."""
        if (found := self._composed(eqn, ins)) is not None:
            self._from[id(eqn.outs[0])] = found

    def _composed(self, eqn: Equation, ins: Sequence[Any]) -> tuple[Any, _Order] | None:
        found = self._turned(eqn, ins)
        if found is None or not hasattr(found[0], "aval"):
            return None
        value, order = found
        first, before = self._from.get(id(value), (value, tuple(range(len(value.aval.shape)))))
        return first, tuple(None if d is None else before[d] for d in order)

    def _turned(self, eqn: Equation, ins: Sequence[Any]) -> tuple[Any, _Order] | None:
        """The operand whose axes an equation puts in another order, and that order."""
        if eqn.name == "transpose":
            return ins[0], tuple(eqn.params["permutation"])
        if eqn.name in ("squeeze", "reshape", "broadcast_in_dim"):
            order = _without_ones(eqn)
            return None if order is None else (ins[0], order)
        if eqn.name == "dot_general" and not self._keep_eyes:
            for i, v in enumerate(ins):
                if isinstance(v, Eye):
                    order = order_of_product(eqn, i, v.kind)
                    return None if order is None else (ins[1 - i], order)
        return None


class Reshapes:
    """The values of a program that have the elements of another one, in the same order.

    Operands are the variables that stand for them, as in `parts.Parts`.
    """

    def __init__(self) -> None:
        self._from: dict[int, Any] = {}  # id of a variable -> what it was

    def equal(self, eqn: Equation, ins: Sequence[Any]) -> Any:
        """The variable that has its old shape again, or `None`."""
        first = self._first(eqn, ins)
        same = first is not None and first.aval.shape == eqn.outs[0].aval.shape
        return first if same else None

    def add(self, eqn: Equation, ins: Sequence[Any]) -> None:
        """Notes what a value was before it was reshaped."""
        if (first := self._first(eqn, ins)) is not None:
            self._from[id(eqn.outs[0])] = first

    def _first(self, eqn: Equation, ins: Sequence[Any]) -> Any:
        # A reshape with `dimensions` turns its operand first.
        if eqn.name != "reshape" or eqn.params.get("dimensions") is not None:
            return None
        return self._from.get(id(ins[0]), ins[0] if hasattr(ins[0], "aval") else None)


def _without_ones(eqn: Equation) -> _Order | None:
    """The order of axes in a result that differs by axes of size 1 alone; or `None`."""
    before, after = shape_of(eqn.raw.invars[0]), shape_of(eqn.outs[0])
    long = [[d for d, n in enumerate(shape) if n != 1] for shape in (before, after)]
    if [before[d] for d in long[0]] != [after[d] for d in long[1]]:
        return None
    if eqn.name == "broadcast_in_dim":
        places = eqn.params["broadcast_dimensions"]
        if [places[d] for d in long[0]] != long[1]:
            return None
    if eqn.name == "reshape" and eqn.params.get("dimensions") is not None:
        return None
    old = dict(zip(long[1], long[0], strict=True))
    return tuple(old.get(d) for d in range(len(after)))
