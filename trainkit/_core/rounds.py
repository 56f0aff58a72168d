"""Rounds: inner steps that each replica takes by itself, then a mean and an outer step.

A step tells its transformations about them by the extra argument `round`. It finds the states of
those that take outer steps by their fields, `slow` and `outer_state`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

OUTER = ("slow", "outer_state")  # changed by outer steps only, so the same on every replica


class Round(NamedTuple):
    """The extra argument `round` of an update in a placement whose replicas part.

    Attributes:
      steps: the number of inner steps in a round.
      over: `False` at each of them: no outer step. `True` once after them: the outer step alone,
        for parameters that are the mean over the replicas; the gradients are 0 and mean nothing.
    """

    steps: int
    over: bool


def takes_outer_steps(node: Any) -> bool:
    """Whether a node of an optimizer state is that of a transformation with an outer step."""
    return all(hasattr(node, name) for name in OUTER)
