"""Ways to reach a goal: goals of an equation's operands under which its result has a goal itself.

A result `PASSES` if it is what it would be without some equations before it, and is `UNIT` if every
element is 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Equation
from trainkit.growth.ir.simplification.identities import (
    EYES,
    EYES_FIRST,
    UNIT,
    ZERO,
    identity_operands,
)

PASSES = "passes"
Goals = list[tuple[int, str]]  # the number of an operand, and what it should be
_OTHER = {"add": ZERO, "add_any": ZERO, "sub": ZERO, "mul": UNIT, "div": UNIT}


def ways_to_pass(eqn: Equation, last: bool) -> Iterator[Goals]:
    """Goals of the operands under which the result passes."""
    if eqn.name in _OTHER:
        sides = (0,) if eqn.name in ("sub", "div") else (1, 0) if last else (0, 1)
        yield from ([(i, PASSES), (1 - i, _OTHER[eqn.name])] for i in sides)
    elif eqn.name in ("dot_general", "conv_general_dilated"):
        for i, what in identity_operands(eqn):
            if what not in (EYES, EYES_FIRST):
                yield [(1 - i, PASSES), (i, str(what))]
    yield [(i, PASSES) for i in range(len(eqn.ins))]
    if eqn.name == "concatenate":  # a matrix behind it may take the part that passes
        yield from ([(i, PASSES)] for i in range(len(eqn.ins)))


def ways_to_be_one(eqn: Equation) -> Iterator[Goals]:
    """Goals of the operands under which every element of the result is 1."""
    if traits(eqn).chooses:
        yield [(0, UNIT)]
    elif traits(eqn).at_zero == 1:
        yield [(0, ZERO)]
    elif eqn.name in ("mul", "div"):
        yield [(0, UNIT), (1, UNIT)]
    elif _OTHER.get(eqn.name) == ZERO:
        sides = (0,) if eqn.name == "sub" else (0, 1)
        yield from ([(i, UNIT), (1 - i, ZERO)] for i in sides)
