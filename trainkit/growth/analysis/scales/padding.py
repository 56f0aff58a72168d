"""Padding units (new units that copy no old unit): which parameters must be 0 there.

Values are 0 in padding units because parameters are: a product is 0 where one factor is, and a sum
where all terms are. Likewise a value may hold the mean of the old units there (see `row_means`). A
condition is a set of clauses. It holds if, for one clause, every parameter holds what the clause
says. A sum over padding units needs its condition. Parameters in no chosen clause are random, so
that those that are 0 have a gradient. (If both factors were 0, neither would ever change.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.axes.axis import Axis
from trainkit.growth.errors import Conflict

ZERO, MEAN = 0, 1  # what padding units hold
# (parameter, its dimension, uid of the axis leaf, what its padding units hold)
Place = tuple[int, int, int, int]
Condition = frozenset[frozenset[Place]]

ALWAYS: Condition = frozenset({frozenset()})
LIMIT = 6  # clauses kept; dropping one may set more parameters to 0 than needed


class Need(NamedTuple):
    """A condition that must hold.

    Attributes:
      readers: numbers of the parameters that are contracted over the axis themselves.
      pair, axes: the equation that needs the condition, and the axes it is about.
    """

    condition: Condition
    readers: Collection[int]
    pair: EquationPair
    axes: Sequence[Axis]


def of(parameter: int, dimension: int, uid: int, holds: int = ZERO) -> Condition:
    return frozenset({frozenset({(parameter, dimension, uid, holds)})})


def either(conditions: Iterable[Condition]) -> Condition | None:
    """The condition that at least one holds; `None` if there are none."""
    clauses = [clause for condition in conditions for clause in condition]
    return _smallest(clauses) if clauses else None


def both(conditions: Iterable[Condition | None]) -> Condition | None:
    """The condition that all hold; `None` if one never holds."""
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
    """Chooses what parameters hold in padding units so that every need is met, with few places.

    Outgoing weights are set to 0 rather than incoming ones, because an activation function may have
    no gradient at 0. A normalised row mean is 0 with a gradient, so there incoming weights are set.

    Returns:
      The chosen places, or the conflict of two contradictory needs.
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
                "padding units would have to be 0 here, and the mean of the old units elsewhere",
                "padding",
                need.axes,
                need.pair,
                hint="grow this axis to a multiple",
            )
        chosen |= set(min(costs)[3])
    return chosen
