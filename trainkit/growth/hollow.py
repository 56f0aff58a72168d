"""New units that copy nothing: which parameters must be 0 there, and which may hold anything.

Whether a value is 0 in its new units follows from parameters being 0 there: a product is 0 where
one factor is, a sum where all terms are. A condition is a set of clauses; it holds when every
parameter of one clause is 0. What sums over such units needs its condition to hold; the parameters
that no chosen clause names are drawn afresh, so that gradients flow to those that are 0. (Were both
sides 0, neither would ever move.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

Place = tuple[int, int, int]  # (parameter, its dimension, uid of the axis leaf)
Condition = frozenset[frozenset[Place]]

ALWAYS: Condition = frozenset({frozenset()})
LIMIT = 6  # clauses kept; dropping one only asks for more zeros than there need be


def of(place: Place) -> Condition:
    return frozenset({frozenset({place})})


def either(conditions: Iterable[Condition]) -> Condition | None:
    """One of them holds; `None` where there is none."""
    found = [clause for condition in conditions for clause in condition]
    return _smallest(found) if found else None


def both(conditions: Iterable[Condition | None]) -> Condition | None:
    """All of them hold; `None` where one never does."""
    result: Condition = ALWAYS
    for condition in conditions:
        if condition is None:
            return None
        if condition is not result:
            result = _smallest([a | b for a in result for b in condition])
    return result


def _smallest(clauses: list[frozenset[Place]]) -> Condition:
    kept: list[frozenset[Place]] = []
    for clause in sorted(set(clauses), key=lambda c: (len(c), sorted(c))):
        if len(kept) < LIMIT and not any(k <= clause for k in kept):
            kept.append(clause)
    return frozenset(kept)


def choose(needs: Iterable[tuple[Condition, Collection[int]]]) -> set[Place]:
    """The places that must be 0 so that every need holds, few of them.

    A need comes with the parameters that read the axis themselves: rather 0 in these than in what
    they read, where 0 may be a point without a slope.
    """
    chosen: set[Place] = set()
    for condition, readers in sorted(needs, key=lambda need: len(need[0])):
        costs = [
            (len(clause - chosen), any(place[0] not in readers for place in clause), sorted(clause))
            for clause in condition
        ]
        chosen |= set(min(costs)[2])
    return chosen
