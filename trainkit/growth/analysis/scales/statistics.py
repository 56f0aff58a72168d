"""Values that are positive in padding units if they are positive in the old ones.

An example is the variance of a batch norm over inputs, plus its ε. A vector may hold the mean of
its old units in padding units. An affine function of it then holds the mean of its old values, and
the mean of positive numbers is positive. (The small model takes a root of them, or divides by a
root, so they are positive wherever it is finite.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

from trainkit.growth.analysis.joint_program import EquationPair, JointProgram
from trainkit.growth.ir.dataflow import Facts, Lattice
from trainkit.growth.ir.primitives import traits

_MOVES = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims")


class Statistic(NamedTuple):
    """A function of one vector, element by element.

    Attributes:
      parameter: the number of the vector among the parameters; −1 for any other value.
      affine: whether the function is affine. Otherwise it is a root of an affine one.
    """

    parameter: int
    affine: bool = True


UNKNOWN = Statistic(-1)


def statistics(joint: JointProgram) -> Facts[Statistic]:
    """Which values are such functions."""
    params = [value for _, value in joint.analysis.params]
    vectors = [Statistic(i) if len(v.axes) == 1 else UNKNOWN for i, v in enumerate(params)]
    others = [UNKNOWN] * (len(joint.values) - len(params))
    return joint.facts(_STATISTICS, [*vectors, *others])


def _transfer(pair: EquationPair, known: list[Statistic]) -> Statistic:
    first = known[0] if known else UNKNOWN
    if pair.name in _MOVES or traits(pair).same:
        return first
    if pair.name in ("sqrt", "rsqrt"):
        return first._replace(affine=False)
    if pair.name in ("add", "sub", "mul", "div"):
        places = (0, 1) if pair.name != "div" else (0,)
        for i in places:
            if known[i].affine and _uniform(pair.ins[1 - i]):
                return known[i]
    return UNKNOWN


def _uniform(v: Any) -> bool:
    return v.const is not None and all(c.uniform is not None for c in v.const)


def _join(a: Statistic, b: Statistic) -> Statistic:
    return a if a == b else UNKNOWN


_STATISTICS: Lattice[Statistic] = Lattice(
    top=UNKNOWN, join=_join, constant=lambda v: None, transfer=_transfer
)
