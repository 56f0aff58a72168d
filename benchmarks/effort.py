"""How much a run of the benchmarks measures."""

from __future__ import annotations

import dataclasses
import sys


@dataclasses.dataclass(frozen=True)
class Effort:
    """What the command line asks of every case.

    Attributes:
      quick: few rounds of small sizes, to see that everything runs; the numbers mean little.
      rounds: the rounds of every comparison; `None`: what the case needs for a quiet computer.
    """

    quick: bool = False
    rounds: int | None = None

    def of(self, usual: int) -> int:
        """The rounds of a comparison that needs `usual` of them."""
        return self.rounds or (min(usual, 3) if self.quick else usual)

    def size(self, usual: int, quick: int) -> int:
        """A size, smaller for a quick run."""
        return quick if self.quick else usual


def warn(message: str) -> None:
    """A message for whoever watches; what is printed to stdout is rows only."""
    print(message, file=sys.stderr, flush=True)
