"""New units that copy nothing: which parameters must be 0 there, and which may hold anything.

Whether a value is 0 in its new units follows from parameters being 0 there: a product is 0 where
one factor is, a sum where all terms are. Likewise whether it holds the mean of the old ones there
(see `rowmeans`). A condition is a set of clauses; it holds when every parameter of one clause is
what the clause says. What sums over such units needs its condition to hold; the parameters that no
chosen clause names are drawn afresh, so that gradients pass to those that are 0. (Were both sides
0, neither would ever move.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.axes.axis import Axis
from trainkit.growth.errors import Conflict

ZERO, MEAN = 0, 1  # what new units hold
# (parameter, its dimension, uid of the axis leaf, what its new units hold)
Place = tuple[int, int, int, int]
Condition = frozenset[frozenset[Place]]

ALWAYS: Condition = frozenset({frozenset()})
LIMIT = 6  # clauses kept; dropping one only asks for more zeros than there need be


class Need(NamedTuple):
    """A condition that has to hold, and what for.

    Attributes:
      readers: the parameters that read the axis themselves.
      pair, axes: the equation that needs it, and the axes it is about.
    """

    condition: Condition
    readers: Collection[int]
    pair: EquationPair
    axes: Sequence[Axis]


def of(parameter: int, dimension: int, uid: int, holds: int = ZERO) -> Condition:
    return frozenset({frozenset({(parameter, dimension, uid, holds)})})


def either(conditions: Iterable[Condition]) -> Condition | None:
    """One of them holds; `None` where there is none."""
    clauses = [clause for condition in conditions for clause in condition]
    return _smallest(clauses) if clauses else None


def both(conditions: Iterable[Condition | None]) -> Condition | None:
    """All of them hold; `None` where one never does."""
    result: Condition = ALWAYS
    for condition in conditions:
        if condition is None:
            return None
        if condition is not result:
            result = _smallest([a | b for a in result for b in condition if _together(a, b)])
    return result or None


def _together(a: Iterable[Place], b: Collection[Place]) -> bool:
    return not any((*place[:3], 1 - place[3]) in b for place in a)


def _smallest(clauses: list[frozenset[Place]]) -> Condition:
    kept: list[frozenset[Place]] = []
    for clause in sorted(set(clauses), key=lambda c: (len(c), sorted(c))):
        if len(kept) < LIMIT and not any(k <= clause for k in kept):
            kept.append(clause)
    return frozenset(kept)


def choose(needs: Iterable[Need]) -> set[Place] | Conflict:
    """What places must hold so that every need is met; few of them.

    Rather 0 in the parameters that read an axis than in what they read, where 0 may be a point
    without a slope. A normalised row mean is 0 with a slope: there rather in what is read.

    Returns:
      The places, or the conflict of two needs that contradict each other.
    """
    chosen: set[Place] = set()
    for need in sorted(needs, key=lambda need: len(need.condition)):
        costs = [
            (
                len(clause - chosen),
                not any(place[3] == MEAN for place in clause),
                any(place[0] not in need.readers for place in clause),
                sorted(clause),
            )
            for clause in need.condition
            if _together(clause, chosen)
        ]
        if not costs:
            return need.pair.analysis.conflict(
                "new units would have to be 0 here, and the mean of the old ones elsewhere",
                "padding",
                need.axes,
                need.pair,
                hint="grow this axis to a multiple",
            )
        chosen |= set(min(costs)[3])
    return chosen
