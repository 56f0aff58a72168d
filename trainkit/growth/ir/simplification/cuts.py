"""Cuts: how operands are cut into parts if the result of an equation is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Equation

_ENDS = "start_indices", "limit_indices"


class Cut(NamedTuple):
    """Where a value is cut: at these points along an axis, of which 0 and its size are two."""

    axis: int
    points: tuple[int, ...]

    def parts(self) -> Iterator[tuple[int, int]]:
        """Start and end of every part."""
        return itertools.pairwise(self.points)


def ranges_taken(eqn: Equation) -> tuple[int, list[tuple[int, int]]] | None:
    """The axis along which an equation takes parts of its operand, and start and end of each."""
    if eqn.name == "split":
        ends = [0, *itertools.accumulate(map(int, eqn.params["sizes"]))]
        return eqn.params["axis"], list(itertools.pairwise(ends))
    if eqn.name != "slice" or set(eqn.params["strides"] or (1,)) != {1}:
        return None
    before, after = eqn.ins[0].aval.shape, eqn.outs[0].aval.shape
    axes = [d for d, (n, m) in enumerate(zip(before, after, strict=True)) if n != m]
    if len(axes) != 1:
        return None
    start, stop = (int(eqn.params[name][axes[0]]) for name in _ENDS)
    return axes[0], [(start, stop)]


def cut_operands(eqn: Equation, cut: Cut) -> list[Cut | None] | None:
    """How operands are cut if the result is; `None` in the list: one is needed whole."""
    shapes = [tuple(getattr(v, "aval", v).shape) for v in eqn.ins]
    out, params = eqn.outs[0].aval.shape, eqn.params
    if traits(eqn).elementwise and not traits(eqn).foreign:
        if any(shape and len(shape) != len(out) for shape in shapes):
            return None
        return [cut if s and s[cut.axis] == out[cut.axis] else None for s in shapes]
    if eqn.name == "broadcast_in_dim":
        dims = list(params["broadcast_dimensions"])
        own = dims.index(cut.axis) if cut.axis in dims else None
        if own is None or shapes[0][own] != out[cut.axis]:
            return [None]
        return [cut._replace(axis=own)]
    if eqn.name == "transpose":
        return [cut._replace(axis=params["permutation"][cut.axis])]
    if eqn.name == "reshape" and params["dimensions"] is None:
        return _before_reshape(shapes[0], out, cut)
    if eqn.name == "dot_general":
        contracted, batch = params["dimension_numbers"]
        shared = len(batch[0])
        if cut.axis < shared:
            return [cut._replace(axis=dims[cut.axis]) for dims in batch]
        free = [
            [d for d in range(len(shape)) if d not in (*contracted[i], *batch[i])]
            for i, shape in enumerate(shapes)
        ]
        place = cut.axis - shared
        if place < len(free[0]):
            return [cut._replace(axis=free[0][place]), None]
        return [None, cut._replace(axis=free[1][place - len(free[0])])]
    return None


def _before_reshape(old: Sequence[int], new: Sequence[int], cut: Cut) -> list[Cut | None] | None:
    """How the operand of a reshape is cut: along the axis that the cut one is in front of."""
    before, size = math.prod(new[: cut.axis]), new[cut.axis]
    for axis, whole in enumerate(old):
        if math.prod(old[:axis]) == before and whole and whole % size == 0:
            times = whole // size
            return [Cut(axis, tuple(n * times for n in cut.points))]
    return None
