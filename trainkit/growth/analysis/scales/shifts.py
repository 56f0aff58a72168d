"""Parameters that are only used as w + s, such as 1 + w in a norm: the sum is scaled, not w."""

from __future__ import annotations

from collections.abc import Iterator

from trainkit._core.compat import scan_counts
from trainkit.growth.analysis.joint_program import EquationPair, JointProgram, all_pairs
from trainkit.growth.ir.dataflow import Lattice
from trainkit.growth.ir.primitives import traits

_NONE = -1  # of a value that is no parameter


def shiftable(joint: JointProgram) -> dict[int, float]:
    """Parameters whose every use is `w + s`, with the same constant s: number -> s."""
    count = len(joint.analysis.params)
    numbers = [i if i < count else _NONE for i in range(len(joint.values))]
    facts = joint.facts(_PARAMETER, numbers)
    shifts: dict[int, set[float | None]] = {}
    for pair in all_pairs(joint.pairs):
        for k in _uses(pair):
            if (i := facts.of(pair.ins[k])) != _NONE:
                shifts.setdefault(i, set()).add(_shift(pair, k))
    bodies = [body for pair in all_pairs(joint.pairs) for body in pair.bodies]
    for v in [*joint.outs, *(v for body in bodies for v in body.outs)]:
        if (i := facts.of(v)) != _NONE:
            shifts.setdefault(i, set()).add(None)  # it is returned unchanged
    agreed = ((i, next(iter(s))) for i, s in shifts.items() if len(s) == 1)
    return {i: shift for i, shift in agreed if shift is not None}


def _passes_on(pair: EquationPair) -> bool:
    """Whether the result is the first operand, of another shape or precision."""
    return traits(pair).move == "whole" or traits(pair).same


def _uses(pair: EquationPair) -> Iterator[int]:
    """The operands that an equation uses itself, not only passes to its result or its body."""
    consts, carried = scan_counts(pair.params) if pair.name == "scan" else (0, len(pair.ins))
    return iter(() if _passes_on(pair) else range(consts, consts + carried))


def _shift(pair: EquationPair, k: int) -> float | None:
    """The constant s that an equation adds to an operand, or `None`."""
    if pair.name != "add" or (const := pair.ins[1 - k].const) is None:
        return None
    a, b = const[0].number, const[1].number
    return a if a == b != 0.0 else None


# The parameter that a value is, up to moved elements.
_PARAMETER: Lattice[int] = Lattice(
    top=_NONE,
    join=lambda a, b: a if a == b else _NONE,
    constant=lambda v: None if v.const is None else _NONE,
    transfer=lambda pair, facts: facts[0] if _passes_on(pair) else _NONE,
)
