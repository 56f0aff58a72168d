"""Slices that take all of the small model's axis, and part of the big one's.

`table[:length]` is no equation where the table has that many rows. So the small program gets one
wherever the big one slices the value that it uses as it is.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation, Fresh, Program


def with_whole_slices(small: Program, big: Program, inputs: dict[int, int]) -> Program:
    """The small program with slices of all of a value, where the big one has a slice there.

    The programs are followed side by side up to the first other difference.

    Args:
      small, big: flat programs.
      inputs: number of an input of the small program -> its number in the big one.
    """
    # Variable of the small program -> those of the big one that it is: also its slices there.
    twins: dict[int, set[int]] = defaultdict(set)
    for i, j in inputs.items():
        twins[id(small.ins[i])].add(id(big.ins[j]))
    source = {id(big.ins[j]): small.ins[i] for i, j in inputs.items()}
    made: dict[int, Any] = {}  # slice in the big program -> the new one in the small program
    equations: list[Equation] = []
    theirs = iter(big.equations)
    rest = iter(small.equations)
    for mine in rest:
        other, added = next(theirs, None), []
        while other is not None and not _alike(mine, other, twins) and _takes_all(other, source):
            value, of = source[id(other.ins[0])], made.get(id(other.ins[0]))
            out = Fresh(value.aval)
            added.append(Equation(_whole(other, value), [of or value], [out], other.calls))
            made[id(other.outs[0])] = out
            twins[id(value)].add(id(other.outs[0]))
            source[id(other.outs[0])] = value
            other = next(theirs, None)
        if other is None or not _alike(mine, other, twins):
            equations += [mine, *rest]
            break
        equations += added
        ins = [made.get(id(b), a) for a, b in zip(mine.ins, other.ins, strict=True)]
        equations.append(Equation(mine.raw, ins, mine.outs, mine.calls))
        for a, b in zip(mine.outs, other.outs, strict=True):
            twins[id(a)].add(id(b))
            source[id(b)] = a
    return Program(small.ins, equations, small.outs) if made else small


def _alike(mine: Equation, other: Equation, twins: dict[int, set[int]]) -> bool:
    """Whether two equations do the same to the same values."""
    if (mine.name, len(mine.ins), len(mine.outs)) != (other.name, len(other.ins), len(other.outs)):
        return False
    return all(
        isinstance(a, Const) == isinstance(b, Const)
        and (isinstance(a, Const) or id(b) in twins[id(a)])
        for a, b in zip(mine.ins, other.ins, strict=True)
    )


def _takes_all(eqn: Equation, source: dict[int, Any]) -> bool:
    """Whether a slice of the big program leaves the size that the value has in the small one."""
    value = source.get(id(eqn.ins[0])) if eqn.name == "slice" else None
    if value is None or set(eqn.params["strides"] or (1,)) != {1}:
        return False
    sizes = zip(value.aval.shape, eqn.ins[0].aval.shape, eqn.outs[0].aval.shape, strict=True)
    return all(after in (before, whole) for before, whole, after in sizes)


def _whole(eqn: Equation, value: Any) -> Any:
    ends = {"start_indices": (0,) * len(value.aval.shape), "limit_indices": value.aval.shape}
    return eqn.raw.replace(params={**eqn.params, **ends})
