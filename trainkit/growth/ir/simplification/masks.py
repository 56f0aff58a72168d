"""Masked parts of values: `x · m + x · (1 − m)` is x, if every element of m is 0 or 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainkit.growth.ir.constants import WHOLE, Const
from trainkit.growth.ir.program import Equation


class Masks:
    """The products with constants among the values of a program.

    Operands are the variables that stand for them, as in `parts.Parts`.
    """

    def __init__(self) -> None:
        self._masked: dict[int, tuple[Any, Const]] = {}  # id of a variable -> the product it is

    def equal(self, eqn: Equation, ins: Sequence[Any]) -> Any:
        """The variable that equals a sum of complementary parts, or `None`."""
        if eqn.name not in ("add", "add_any"):
            return None
        parts = [self._masked.get(id(v)) for v in ins]
        if parts[0] is None or parts[1] is None or parts[0][0] is not parts[1][0]:
            return None
        return parts[0][0] if _complementary(parts[0][1], parts[1][1]) else None

    def add(self, eqn: Equation, ins: Sequence[Any]) -> None:
        """Notes a product of a variable and a constant."""
        if eqn.name != "mul" or sum(isinstance(v, Const) for v in ins) != 1:
            return
        value, mask = ins if isinstance(ins[1], Const) else ins[::-1]
        if hasattr(value, "aval") and value.aval.shape == eqn.outs[0].aval.shape:
            self._masked[id(eqn.outs[0])] = value, mask


def _complementary(a: Const, b: Const) -> bool:
    """Whether two masks are 0 and 1, and 1 together."""
    if max(math.prod(a.core_shape), math.prod(b.core_shape)) > WHOLE:
        return False
    x, y = np.asarray(a.core), np.asarray(b.core)
    binary = all(((m == 0) | (m == 1)).all() for m in (x, y))
    return binary and bool((x + y == 1).all())
