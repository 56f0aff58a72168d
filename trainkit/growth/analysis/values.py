"""Values of both programs: what is a variable or a constant in each is one value here.

Some values are no copies, but about what was chosen along an axis that grows: indices into it
(`Pick`), and what compares two such indices (`Match`). Of an axis whose units have m copies side
by side, `top_k` with m·k for k takes every chosen unit with all its copies, in their order: entry
j·m + r of the result is copy r of what entry j was. Its indices are no copies of the small ones
(m·i + r for i), and yet whatever is picked by them is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from trainkit.growth.axes.axis import Axis
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Program


class Pick(NamedTuple):
    """V′[J] = m·v[π(J)] + r, with r the number of J's copy along one dimension.

    Attributes:
      into: the axis that is indexed.
      along: the axis whose copies pick the copies, and
      dim: the dimension it is in.
      inside: whether 0 ≤ v < n is known.
      part: (dimension, place) where this is one part of an index that has several.
    """

    into: Axis
    along: Axis
    dim: int
    inside: bool = True
    part: tuple[int, int] | None = None


class Match(NamedTuple):
    """V′[J] = v[π(J)] where J's copies along two dimensions have the same number.

    Attributes:
      dims, axes: the two dimensions, and the axes in them.
      tight: whether it is 0 everywhere else; otherwise it is unknown there.
      counts: whether no element is negative.
    """

    dims: tuple[int, int]
    axes: tuple[Axis, Axis]
    tight: bool
    counts: bool = False


def leaf_of(axis: Axis) -> Axis:
    """The one grown leaf of an axis of choices."""
    (leaf,) = grown_leaves(axis)
    return leaf


class Value:
    """A value of both programs: its shapes, one `Axis` a dimension, what it comes from.

    Attributes:
      const: the constant in both programs, or `None`.
      origin: the parameter that this is, up to moving its elements about, or `None`.
      scale, exponents, zeros, means: what scale propagation finds; see `scales`.
      choice: what it is if it is no copy, but about what was chosen along an axis; see `Pick`.
    """

    __slots__ = (
        "axes",
        "big",
        "choice",
        "const",
        "dtype",
        "exponents",
        "means",
        "origin",
        "scale",
        "small",
        "zeros",
    )

    def __init__(self, small, big, dtype, axes=None, const=None, origin=None):
        self.small, self.big, self.dtype = tuple(small), tuple(big), dtype
        if axes is None:
            axes = [Axis(n, m) for n, m in zip(self.small, self.big, strict=True)]
        self.axes: list[Axis] = axes
        self.const: tuple[Const, Const] | None = const
        self.origin: int | None = origin
        self.scale: Any = None
        self.exponents: Any = None
        self.zeros: Any = None
        self.means: Any = {}
        self.choice: Pick | Match | None = None


class SharedValues:
    """The values of variables that are one and the same in both programs."""

    def __init__(
        self,
        small: Program,
        big: Program,
        args: list[Value],
        constant: Callable[[Const, Const], Value],
    ):
        self.constant = constant
        self.of_small = {id(v): a for v, a in zip(small.ins, args, strict=True)}
        self.of_big = {id(v): a for v, a in zip(big.ins, args, strict=True)}

    def values(self, small: Sequence[Any], big: Sequence[Any]) -> list[Value] | int:
        """The values of variables; the number of the first that is not shared."""
        result = []
        for i, (s, b) in enumerate(zip(small, big, strict=True)):
            value = self._value(s, b)
            if value is None:
                return i
            result.append(value)
        return result

    def _value(self, s: Any, b: Any) -> Value | None:
        if isinstance(s, Const) and isinstance(b, Const):
            return self.constant(s, b) if len(s.shape) == len(b.shape) else None
        if isinstance(s, Const) or isinstance(b, Const):
            return None
        value = self.of_small[id(s)]
        return value if self.of_big[id(b)] is value else None

    def add(self, small: Sequence[Any], big: Sequence[Any], values: Sequence[Value]) -> None:
        for s, b, value in zip(small, big, values, strict=True):
            self.of_small[id(s)] = self.of_big[id(b)] = value
