"""Equations that would do nothing in the small model, and so are not there.

`table[:length]` is no equation where the table has that many rows, and heads that are repeated once
are often left as they are. So the small program gets such an equation wherever the big one has one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation, Fresh, Program


def with_idle_equations(small: Program, big: Program, inputs: Mapping[int, int]) -> Program:
    """The small program with equations that change nothing, where the big one has them.

    Slices that take all of a value, and axes of size 1 that are added and merged into another one.
    The programs are followed side by side up to the first other difference.

    Args:
      small, big: flat programs.
      inputs: number of an input of the small program -> its number in the big one.
    """
    # Variable of the small program -> those of the big one that it is: also what slices give there.
    twins: dict[int, set[int]] = defaultdict(set)
    for i, j in inputs.items():
        twins[id(small.ins[i])].add(id(big.ins[j]))
    source = {id(big.ins[j]): small.ins[i] for i, j in inputs.items()}
    made: dict[int, Any] = {}  # result in the big program -> the new one in the small program
    equations: list[Equation] = []
    theirs = iter(big.equations)
    rest = iter(small.equations)
    for mine in rest:
        other, added = next(theirs, None), []
        while other is not None and not _alike(mine, other, twins, made):
            idle = _idle(other, source, made)
            if idle is None:
                break
            added.append(idle)
            value = source[id(other.ins[0])]
            made[id(other.outs[0])], source[id(other.outs[0])] = idle.outs[0], value
            twins[id(value)].add(id(other.outs[0]))
            other = next(theirs, None)
        if other is None or not _alike(mine, other, twins, made):
            equations += [mine, *rest]
            break
        equations += added
        ins = [made.get(id(b), a) for a, b in zip(mine.ins, other.ins, strict=True)]
        equations.append(Equation(mine.raw, ins, mine.outs, mine.calls))
        for a, b in zip(mine.outs, other.outs, strict=True):
            twins[id(a)].add(id(b))
            source[id(b)] = a
    return Program(small.ins, equations, small.outs) if made else small


def _alike(
    mine: Equation, other: Equation, twins: Mapping[int, set[int]], made: Mapping[int, Any]
) -> bool:
    """Whether two equations do the same to the same values."""
    if (mine.name, len(mine.ins), len(mine.outs)) != (other.name, len(other.ins), len(other.outs)):
        return False
    for a, b in zip(mine.ins, other.ins, strict=True):
        if isinstance(a, Const) or isinstance(b, Const):
            if not (isinstance(a, Const) and isinstance(b, Const)):
                return False
        elif id(b) not in twins[id(a)] or made.get(id(b), a).aval.shape != a.aval.shape:
            return False
    return True


def _idle(eqn: Equation, source: Mapping[int, Any], made: Mapping[int, Any]) -> Equation | None:
    """An equation of the big program as one of the small program that changes nothing."""
    value = source.get(id(eqn.ins[0])) if eqn.ins else None
    if value is None:
        return None
    before = made.get(id(eqn.ins[0]), value)
    shape = before.aval.shape
    params: dict[str, Any] = {}
    if eqn.name == "slice" and set(eqn.params["strides"] or (1,)) == {1}:
        sizes = zip(shape, eqn.ins[0].aval.shape, eqn.outs[0].aval.shape, strict=True)
        if not all(after in (own, whole) for own, whole, after in sizes):
            return None
        params = {"start_indices": (0,) * len(shape), "limit_indices": shape}
    elif eqn.name == "broadcast_in_dim":
        kept = dict(zip(eqn.params["broadcast_dimensions"], shape, strict=True))
        if list(kept) != sorted(kept):
            return None
        shape = tuple(kept.get(d, 1) for d in range(len(eqn.outs[0].aval.shape)))
        params = {"shape": shape}
    elif eqn.name == "reshape" and len(eqn.outs[0].aval.shape) == len(value.aval.shape):
        shape = value.aval.shape  # the axis of size 1 that was added is merged
        params = {"new_sizes": shape}
    else:
        return None
    raw = eqn.raw.replace(params={**eqn.params, **params})
    return Equation(raw, [before], [Fresh(value.aval.update(shape=shape))], eqn.calls)
