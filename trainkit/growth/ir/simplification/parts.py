"""Parts of values: entries along one axis that are taken out, and put together again.

A coupling layer splits a value, changes one half, and concatenates both halves. If the change is
none, the result is the value itself. The same holds for a value whose entries are reversed twice,
or written to where they came from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from trainkit.growth.ir.constants import WHOLE, Const
from trainkit.growth.ir.program import Equation

_JOINS = ("concatenate", "stack")
_TAKES = (
    "split", "unstack", "slice", "rev", "gather", "squeeze", "broadcast_in_dim", "reshape"
)  # fmt: skip


class Part(NamedTuple):
    """Entries `places`, in this order, of value `whole` along one axis.

    `squeezed`: it has one entry, and the axis is removed.
    """

    whole: Any
    axis: int
    places: np.ndarray
    squeezed: bool = False


class Parts:
    """The parts among the values of a program.

    Equal values may be different variables, so all operands are those that stand for them.

    Args:
      merged: whether a part that is taken again is the variable of the first time.
    """

    def __init__(self, merged: bool = True) -> None:
        self._merged = merged
        self._parts: dict[int, Part] = {}  # id of a variable -> its part of another one
        self._known: dict[tuple[int, int, bytes], Any] = {}  # a part -> the first variable of it

    def equal(self, eqn: Equation, ins: Sequence[Any]) -> Any:
        """The variable that equals the result: parts in their old places; or `None`."""
        if eqn.name in _JOINS:
            return self._variable(eqn, self._joined(eqn, ins))
        if eqn.name in ("rev", "gather") and hasattr(ins[0], "aval"):
            found = next(self._taken(eqn, ins), None)
            return None if found is None else self._variable(eqn, found)
        if eqn.name == "scatter":
            return ins[0] if self._written_back(eqn, ins) else None
        return None

    def add(self, eqn: Equation, ins: Sequence[Any]) -> None:
        """Notes which parts an equation's results are."""
        if eqn.name in _JOINS:
            found = iter([self._joined(eqn, ins)])
        elif eqn.name in _TAKES and hasattr(ins[0], "aval"):
            found = self._taken(eqn, ins)
        else:
            return
        for v, part in zip(eqn.outs, found, strict=False):
            if part is None:
                continue
            self._parts[id(v)] = part
            if not part.squeezed:
                key = id(part.whole), part.axis, part.places.tobytes()
                self._known.setdefault(key, v)

    def _variable(self, eqn: Equation, part: Part | None) -> Any:
        if part is None:
            return None
        if np.array_equal(part.places, np.arange(part.whole.aval.shape[part.axis])):
            found = part.whole
        else:
            key = id(part.whole), part.axis, part.places.tobytes()
            found = self._known.get(key) if self._merged else None
        same = found is not None and tuple(found.aval.shape) == tuple(eqn.outs[0].aval.shape)
        return found if same else None

    def _part(self, v: Any, axis: int) -> Part:
        """A value as a part along an axis: of another value, or of itself."""
        known = self._parts.get(id(v))
        if known is not None and known.axis == axis and not known.squeezed:
            return known
        return Part(v, axis, np.arange(v.aval.shape[axis]))

    def _joined(self, eqn: Equation, ins: Sequence[Any]) -> Part | None:
        """The part that a concatenation or a stack of parts is."""
        stacked = eqn.name == "stack"
        parts = [self._parts.get(id(v)) for v in ins]
        first, axis = parts[0], eqn.params["axis" if stacked else "dimension"]
        if first is None or axis != first.axis:
            return None
        places = []
        for part in parts:
            if part is None or part.whole is not first.whole or part.axis != first.axis:
                return None
            if part.squeezed != stacked:
                return None
            places.append(part.places)
        return Part(first.whole, axis, np.concatenate(places))

    def _taken(self, eqn: Equation, ins: Sequence[Any]) -> Iterator[Part | None]:
        """The parts of the first operand that an equation takes, one for each result."""
        value, params = ins[0], eqn.params
        if eqn.name == "split":
            ends = np.cumsum([0, *params["sizes"]])
            part = self._part(value, params["axis"])
            for start, stop in itertools.pairwise(ends):
                yield part._replace(places=part.places[start:stop])
        elif eqn.name == "unstack":
            part = self._part(value, params["axis"])
            for i in range(len(eqn.outs)):
                yield part._replace(places=part.places[i : i + 1], squeezed=True)
        elif eqn.name in ("squeeze", "broadcast_in_dim", "reshape"):
            yield self._reshaped(eqn, value)
        else:
            found = _selection(eqn, ins)
            if found is not None:
                part = self._part(value, found[0])
                # A value that stands for one of another width may be too short.
                inside = max(found[1], default=0) < len(part.places)
                yield part._replace(places=part.places[found[1]]) if inside else None

    def _reshaped(self, eqn: Equation, value: Any) -> Part | None:
        """A part of one entry without its axis, or with it again."""
        part = self._parts.get(id(value))
        if part is None or len(part.places) != 1:
            return None
        shape = list(part.whole.aval.shape)
        shape[part.axis] = 1
        short = shape[: part.axis] + shape[part.axis + 1 :]
        out = list(eqn.outs[0].aval.shape)
        if eqn.name == "squeeze" and tuple(eqn.params["dimensions"]) == (part.axis,):
            return None if part.squeezed else part._replace(squeezed=True)
        if eqn.name == "broadcast_in_dim" and part.squeezed and out == shape:
            kept = tuple(d for d in range(len(shape)) if d != part.axis)
            same = tuple(eqn.params["broadcast_dimensions"]) == kept
            return part._replace(squeezed=False) if same else None
        if eqn.name == "reshape" and eqn.params.get("dimensions") is None:
            if out == short and not part.squeezed:
                return part._replace(squeezed=True)
            if out == shape and part.squeezed:
                return part._replace(squeezed=False)
        return None

    def _written_back(self, eqn: Equation, ins: Sequence[Any]) -> bool:
        """Whether a scatter writes a part of its operand to where it comes from."""
        value, index, new = ins
        part, places = self._parts.get(id(new)), _whole_numbers(index)
        if part is None or places is None or part.squeezed or not hasattr(value, "aval"):
            return False
        dims, shape = eqn.params["dimension_numbers"], tuple(value.aval.shape)
        rest = tuple(d for d in range(len(shape)) if d != part.axis)
        if tuple(dims.scatter_dims_to_operand_dims) != (part.axis,) or dims.operand_batching_dims:
            return False
        if tuple(dims.inserted_window_dims) == (part.axis,):
            if tuple(dims.update_window_dims) != rest or index.shape != (*places.shape, 1):
                return False
        elif tuple(dims.update_window_dims) == tuple(range(len(shape))) and places.size == 1:
            if any(new.aval.shape[d] != shape[d] for d in rest):
                return False
            places = places[0] + np.arange(len(part.places))
        else:
            return False
        own = self._part(value, part.axis)
        if own.whole is not part.whole or places.min() < 0 or places.max() >= len(own.places):
            return False
        return np.array_equal(own.places[places], part.places)


def _selection(eqn: Equation, ins: Sequence[Any]) -> tuple[int, np.ndarray] | None:
    """The axis along which an equation selects entries, and their places; or `None`."""
    shape, params = tuple(ins[0].aval.shape), eqn.params
    if eqn.name == "rev" and len(params["dimensions"]) == 1:
        (axis,) = params["dimensions"]
        return axis, np.arange(shape[axis])[::-1]
    if eqn.name == "slice":
        start, limit = params["start_indices"], params["limit_indices"]
        stride = params["strides"] or (1,) * len(shape)
        cut = [d for d, n in enumerate(shape) if (start[d], limit[d]) != (0, n) or stride[d] != 1]
        if len(cut) != 1:
            return None
        (axis,) = cut
        return axis, np.arange(start[axis], limit[axis], stride[axis])
    if eqn.name == "gather":
        return _gathered(params, shape, ins[1])
    return None


def _gathered(params: Any, shape: tuple[int, ...], index: Any) -> tuple[int, np.ndarray] | None:
    """The selection of `x[:, places]` with constant places along one axis."""
    dims, places = params["dimension_numbers"], _whole_numbers(index)
    if places is None or len(dims.start_index_map) != 1 or dims.operand_batching_dims:
        return None
    (axis,) = dims.start_index_map
    rest = tuple(d for d in range(len(shape)) if d != axis)
    whole = tuple(1 if d == axis else n for d, n in enumerate(shape))
    in_place = tuple(dims.collapsed_slice_dims) == (axis,) and tuple(dims.offset_dims) == rest
    if not in_place or tuple(params["slice_sizes"]) != whole or index.shape != (len(places), 1):
        return None
    inside = not len(places) or (places.min() >= 0 and places.max() < shape[axis])
    return (axis, places) if inside else None


def _whole_numbers(v: Any) -> np.ndarray | None:
    """The elements of a constant of whole numbers with one axis, or with a second one of size 1."""
    whole = isinstance(v, Const) and jax.dtypes.issubdtype(v.dtype, np.integer)
    if not whole or math.prod(v.shape) > WHOLE:
        return None
    if not (len(v.shape) == 1 or (len(v.shape) == 2 and v.shape[1] == 1)):
        return None
    return np.asarray(v.value).reshape(-1).astype(np.int64)
