"""Normalised values: what has length 1 stays as it is when it is divided by its length again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation

_Length = tuple[Any, tuple[int, ...], str]  # of a variable, along these axes; as what


class UnitLengths:
    """The values of a program that were divided by their length √Σx² along some axes.

    Operands are the variables that stand for them, as in `parts.Parts`.
    """

    def __init__(self) -> None:
        self._squares: dict[int, Any] = {}  # id of x² -> x
        # Id of a variable -> what of a length it is: "square", "root" or "inverse".
        self._lengths: dict[int, _Length] = {}
        self._units: dict[int, tuple[int, ...]] = {}  # id of a variable -> axes

    def equal(self, eqn: Equation, ins: Sequence[Any]) -> Any:
        """1 for the squared length of a normalised value, or `None`."""
        found = self._length(eqn, ins) if eqn.name == "reduce_sum" else None
        if found is None or self._units.get(id(found[0])) != found[1]:
            return None
        aval = eqn.outs[0].aval
        one = np.ones((), aval.dtype)
        key = ("uniform", str(aval.dtype), tuple(aval.shape), one.tobytes())
        return Const(aval.shape, aval.dtype, key, lambda: None, one)

    def add(self, eqn: Equation, ins: Sequence[Any]) -> None:
        """Notes squares, lengths, and what is divided by its length."""
        if len(eqn.outs) != 1:
            return
        result = id(eqn.outs[0])
        if _is_square(eqn, ins):
            self._squares[result] = ins[0]
        elif (length := self._length(eqn, ins)) is not None:
            self._lengths[result] = length
        elif eqn.name in ("div", "mul"):
            kind = "root" if eqn.name == "div" else "inverse"
            for value, by in ((ins[0], ins[1]), (ins[1], ins[0]))[: 2 if kind == "inverse" else 1]:
                of, axes, what = self._lengths.get(id(by), (None, (), ""))
                if of is value and what == kind and _in_place(by, value, axes):
                    self._units[result] = axes

    def _length(self, eqn: Equation, ins: Sequence[Any]) -> _Length | None:
        if eqn.name == "reduce_sum" and id(ins[0]) in self._squares:
            return self._squares[id(ins[0])], tuple(eqn.params["axes"]), "square"
        of, axes, what = self._lengths.get(id(ins[0]), (None, (), "")) if ins else (None, (), "")
        if of is None:
            return None
        if eqn.name in ("sqrt", "rsqrt") and what == "square":
            return of, axes, "root" if eqn.name == "sqrt" else "inverse"
        kept = eqn.name == "reshape" or (
            eqn.name == "broadcast_in_dim" and _keeps_places(eqn, ins[0], of, axes)
        )
        return (of, axes, what) if kept and _in_place(eqn.outs[0], of, axes) else None


def _is_square(eqn: Equation, ins: Sequence[Any]) -> bool:
    if eqn.name == "mul":
        return ins[0] is ins[1] and hasattr(ins[0], "aval")
    return eqn.name == "square" or (eqn.name == "integer_pow" and eqn.params["y"] == 2)


def _in_place(length: Any, of: Any, axes: tuple[int, ...]) -> bool:
    """Whether a length has the axes of its value, those that were summed over with 1 entry."""
    one = tuple(1 if d in axes else n for d, n in enumerate(of.aval.shape))
    return length.aval.shape in (one, of.aval.shape)


def _keeps_places(eqn: Equation, length: Any, of: Any, axes: tuple[int, ...]) -> bool:
    """Whether a broadcast leaves axes where they are in the value, or puts them there."""
    rank = len(of.aval.shape)
    places = (
        range(rank) if len(length.aval.shape) == rank else (d for d in range(rank) if d not in axes)
    )
    return tuple(eqn.params["broadcast_dimensions"]) == tuple(places)
