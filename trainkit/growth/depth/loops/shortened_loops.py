"""Programs with fewer iterations of their loops over layers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from trainkit._core.compat import scan_counts
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.primitives import traits, zero_result
from trainkit.growth.ir.program import Equation, Fresh, Program
from trainkit.growth.ir.source_lines import where


def shortened(
    program: Program,
    stacks: dict[int, tuple[int, list[int]]],
    zeros: Collection[int] = (),
) -> Program | Conflict:
    """The program without some iterations of its loops.

    Args:
      program: flat.
      stacks: number of an input -> its layer axis, and the rows that stay.
      zeros: ids of results of loops that are 0 in the rows that do not stay, so that a sum over
        layers is the same without these.

    Returns:
      The program, or a conflict: a stacked parameter is used outside its loop, or a loop also runs
      over a value that is neither a parameter nor a constant.
    """
    cut = _Shortening(zeros)
    ins = [cut.smaller(v, *stacks[i]) if i in stacks else v for i, v in enumerate(program.ins)]
    equations = []
    for eqn in program.equations:
        shorter = cut.equation(eqn)
        if isinstance(shorter, Conflict):
            return shorter
        equations.append(shorter)
    return Program(ins, equations, [cut.new.get(id(v), v) for v in program.outs])


class _Shortening:
    """The variables that have lost rows.

    Args:
      zeros: ids of results of loops that are 0 in these rows.
    """

    def __init__(self, zeros: Collection[int]):
        self.zeros = set(zeros)  # and variables that are computed from them
        self.new: dict[int, Any] = {}  # old variable -> new one
        self.rows: dict[int, tuple[int, list[int]]] = {}  # new variable -> axis, rows that stay

    def smaller(self, v: Any, axis: int, keep: list[int]) -> Fresh:
        shape = tuple(len(keep) if a == axis else n for a, n in enumerate(v.aval.shape))
        result = Fresh(v.aval.update(shape=shape))
        self.new[id(v)], self.rows[id(result)] = result, (axis, keep)
        return result

    def equation(self, eqn: Equation) -> Equation | Conflict:
        ins = [self.new.get(id(v), v) for v in eqn.ins]
        cut = [self.rows.get(id(v)) for v in ins]
        known = [c for c in cut if c is not None]
        if not known:
            return Equation(eqn.raw, ins, eqn.outs, eqn.calls)
        axis, keep = known[0]
        if any(c != (axis, keep) for c in known):
            return _outside(eqn)
        raw, outs, first = eqn.raw, eqn.outs, 0
        if eqn.name == "scan":
            consts, carried = scan_counts(eqn.params)
            first = consts + carried
            if axis or any(c is not None for c in cut[:first]):
                return _outside(eqn)
            raw = raw.replace(params={**raw.params, "length": len(keep)})
            outs = [*outs[:carried], *(self.smaller(v, 0, keep) for v in outs[carried:])]
        elif eqn.name == "transpose":
            outs = [self.smaller(outs[0], list(eqn.params["permutation"]).index(axis), keep)]
        elif traits(eqn).elementwise:
            outs = [self.smaller(v, axis, keep) for v in outs]
        elif eqn.name == "reduce_sum" and axis not in (axes := eqn.params["axes"]):
            outs = [self.smaller(outs[0], axis - sum(d < axis for d in axes), keep)]
        elif eqn.name == "reduce_sum" and id(eqn.ins[0]) in self.zeros:
            return Equation(raw, ins, outs, eqn.calls)
        else:
            return _outside(eqn)
        for i in range(first, len(ins)):
            # Constants used together with parameters lose the same rows.
            if cut[i] is None and (eqn.name == "scan" or _varies(ins[i], axis)):
                if not isinstance(ins[i], Const):
                    return _no_constant(ins[i])
                ins[i] = _taken(ins[i], keep, axis)
        if eqn.name != "scan" and zero_result(eqn, list(map(self._is_zero, eqn.ins))):
            self.zeros.update(id(v) for v in eqn.outs)
        return Equation(raw, ins, outs, eqn.calls)

    def _is_zero(self, v: Any) -> bool:
        return v.is_zero if isinstance(v, Const) else id(v) in self.zeros


def _varies(v: Any, axis: int) -> bool:
    """Whether an operand may differ between layers: it has a layer axis of size > 1."""
    shape = getattr(v, "aval", v).shape
    return bool(shape) and shape[axis] != 1


def _taken(v: Const, keep: list[int], axis: int) -> Const:
    """Some rows of a constant."""
    shape = tuple(len(keep) if a == axis else n for a, n in enumerate(v.shape))
    take = lambda: np.take(v.value, keep, axis)
    return Const(shape, v.dtype, ("rows", v.key, tuple(keep), axis), take, v.uniform)


def _no_constant(v: Any) -> Conflict:
    return Conflict(
        f"a loop over layers also runs over a value of shape {tuple(v.aval.shape)} that is neither "
        "a parameter nor a constant",
        "layers",
        hint="pass values that differ between layers as parameters or constants",
    )


def _outside(eqn: Equation) -> Conflict:
    return Conflict(
        f"parameters that are stacked over layers are used outside their loop, by `{eqn.name}`",
        "layers",
        primitive=eqn.name,
        source=where(eqn),
        hint="put the layers that grow into separate arrays",
    )
