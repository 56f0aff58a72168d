"""What a method trains with, one part of a run after another: a model, and a length of examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

CHUNK = 10  # steps a call
DECAY = 0.2  # the share of every budget over which the learning rate falls
Size = tuple[int, int]  # width and depth


class Phase(NamedTuple):
    """A part of a run.

    Attributes:
      size: of the model.
      length: of the training examples.
      steps: how many.
    """

    size: Size
    length: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Way:
    """One method.

    Attributes:
      method: "small", "large", the number of blocks in between, or the operator that grows.
      name: in tables.
      size: width and depth that it ends with.
      grow_at: the share of the largest budget at which it grows; 0 for one that does not.
      moments: what becomes of them in the growth.
      lengths: shorter lengths of examples that it begins with, each with the share of the largest
        budget until which it is used.
    """

    method: str
    name: str
    size: Size
    grow_at: float = 0.0
    moments: str = ""
    lengths: tuple[tuple[int, float], ...] = ()

    @property
    def kind(self) -> str:
        """What learning rates are tuned for."""
        return "growing" if self.grow_at else self.method


def before_last(
    way: Way, small: Size, full: int, budget: float, per_step: Callable[[Size, int], float]
) -> list[Phase]:
    """All phases of a method but the last, which ends at the budgets.

    Args:
      way: the method.
      small: the size of the model that growing begins with.
      full: the length of examples that all methods end with.
      budget: FLOPs of the largest budget.
      per_step: size, length -> FLOPs of a step.

    >>> way = Way("identity", "a → b", (8, 2), grow_at=0.1, lengths=((4, 0.2),))
    >>> before_last(way, (8, 0), 16, 4000.0, lambda size, length: float(length))
    [Phase(size=(8, 0), length=4, steps=100), Phase(size=(8, 2), length=4, steps=100)]
    """
    found, spent = [], 0.0
    for share in sorted({way.grow_at, *(until for _, until in way.lengths)} - {0.0}):
        size = small if share <= way.grow_at else way.size
        length = next((one for one, until in way.lengths if share <= until), full)
        each = per_step(size, length)
        found.append(Phase(size, length, whole((share * budget - spent) / each)))
        spent += found[-1].steps * each
    return found


class Leg(NamedTuple):
    """Steps to a budget: at the full rate, then the decay from there; and what it all comes to."""

    more: int
    decay: int
    flops: float


def legs(budgets: Sequence[float], per_step: float, spent: float) -> Iterator[Leg]:
    """How a run with a stable rate reaches each of several budgets with a decayed one.

    >>> list(legs([100.0, 200.0], 1.0, 0.0))
    [Leg(more=80, decay=20, flops=100.0), Leg(more=80, decay=40, flops=200.0)]
    """
    for budget in budgets:
        more = whole((budget * (1 - DECAY) - spent) / per_step)
        spent += more * per_step
        decay = whole((budget - spent) / per_step)
        yield Leg(more, decay, spent + decay * per_step)


def whole(steps: float) -> int:
    """The nearest multiple of `CHUNK`, at least one."""
    return max(1, round(steps / CHUNK)) * CHUNK
