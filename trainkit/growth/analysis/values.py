"""Values of the joint program: a variable or constant of the small program and its partner.

Four kinds of values are not copies of the small ones. Symbols may have other numbers (`Renamed`),
and so have remainders by another divisor (`Remainder`). Two depend on a selection along an axis
that grows: indices into it (`Pick`), and comparisons of such indices (`Match`). Let the m copies of
each unit be neighbours. Then `top_k` with m·k in place of k selects every chosen unit with all its
copies, in order: entry j·m + r of the result is copy r of old entry j. The index m·i + r is not a
copy of the old index i, but the values that it selects are copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from trainkit.growth.axes.axis import Axis
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Program


class Pick(NamedTuple):
    """A value of indices: V′[J] = m·v[π(J)] + r, with r the copy number of J along one dimension.

    Attributes:
      into: the axis that is indexed, with m copies of each unit.
      along: the axis of the value whose copy number is r.
      dim: the dimension of that axis.
      inside: whether 0 ≤ v < n is known.
      part: (dimension, position), if this is one component of a multi-dimensional index.
    """

    into: Axis
    along: Axis
    dim: int
    inside: bool = True
    part: tuple[int, int] | None = None


class Match(NamedTuple):
    """A value with V′[J] = v[π(J)] wherever J has the same copy number along two dimensions.

    Attributes:
      dims, axes: the two dimensions, and their axes.
      tight: whether it is 0 everywhere else; otherwise it is unknown there.
      counts: whether no element is negative.
    """

    dims: tuple[int, int]
    axes: tuple[Axis, Axis]
    tight: bool
    counts: bool = False


class Renamed(NamedTuple):
    """A value of symbols with other numbers in the big model: V′[J] = places[v[π(J)]].

    Attributes:
      places: the new number of each old one, in 0 ≤ v < n. `None`: nothing is known of the value;
        it is never selected.
    """

    places: tuple[int, ...] | None


class Remainder(NamedTuple):
    """A value of remainders by n, and by m·n in the big model, or what chooses among them.

    Attributes:
      by: (n, m·n).
      form: "inside": V′[J] ≡ v[π(J)] modulo n, with 0 ≤ v < n and 0 ≤ V′ < m·n. "signed": the same
        with |v| < n and |V′| < m·n. "raised": a remainder plus its divisor, of which nothing is
        known where that is not selected. "negative", "not zero": whether a remainder is.
      of: for the last three, that remainder.
    """

    by: tuple[int, int]
    form: Literal["inside", "signed", "raised", "negative", "not zero"]
    of: Value | None = None


Choice = Pick | Match | Renamed | Remainder


def worded(choice: Choice) -> tuple[str, str]:
    """What a value holds that is no copy, at length and in one word."""
    if isinstance(choice, Renamed):
        return "symbols, which have other numbers in the big model", "symbols"
    if isinstance(choice, Remainder):
        n, m = choice.by
        return f"remainders by {n} in the small model, and by {m} in the big one", "remainders"
    return "indices of selected entries of an axis that grows", "indices"


def leaf_of(axis: Axis) -> Axis:
    """The only grown leaf of an axis."""
    (leaf,) = grown_leaves(axis)
    return leaf


class Value:
    """A value of both programs.

    Attributes:
      small, big, dtype: its shapes and its dtype.
      axes: one `Axis` for each dimension.
      const: the constants in both programs, or `None`.
      origin: number of the parameter that this is, up to moved elements, or `None`.
      scale, exponents, zeros, means: set by scale propagation; see `scales.unknowns`.
      choice: what is known of a value that is no copy; otherwise `None`.
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
        self.choice: Choice | None = None


class SharedValues:
    """The joint values of variables, while two programs are joined."""

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
        """The joint values of pairs of variables, or the index of the first pair without one."""
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
