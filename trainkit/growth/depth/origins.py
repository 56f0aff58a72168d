"""Which leaf of the deeper model is which of the shallower: all answers, the likeliest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trainkit.growth.depth.alignment import Origins, alignments
from trainkit.growth.depth.flat_model import Shapes
from trainkit.growth.depth.program_order import Reading, in_order, readings
from trainkit.growth.errors import Conflict

# Adds layers where origins and an operator say; what it returns beside a conflict does not matter.
Attempt = Callable[[Origins, str], Any]


def candidates(
    small: Shapes, big: Shapes, how: str, attempt: Attempt
) -> Iterator[Origins | Conflict]:
    """Origins by names, and by the order in which the programs read their leaves.

    Args:
      small, big: leaf name -> shape, in the order in which the programs use them.
      how: the operator for depth. What "identity" adds is proved afterwards, so that all candidates
        are of use; copies are not, and only the likeliest are.
      attempt: tells whether layers of some origins can be made to do nothing.
    """
    named = alignments(small, big, how)
    known = [] if isinstance(named, Conflict) else named
    if how == "identity":
        yield from known
    else:
        ordered = [origins for origins in known if in_order(origins, small, big)]
        if ordered:
            yield from ordered
            return
    options = readings(small, big)
    if how != "identity" and options:
        blocks = _blocks(options, attempt)
        if isinstance(blocks, Conflict):
            yield blocks
            return
        options = [blocks]
    by_order = [reading.origin(how) for reading in options]
    yield from (origins for origins in by_order if origins not in known or how != "identity")
    if not options and how != "identity":
        yield from known
    if not options and isinstance(named, Conflict):
        yield named


def _blocks(options: list[Reading], attempt: Attempt) -> Reading | Conflict:
    """The reading whose periods are blocks: they can be made to do nothing, and are all layers."""
    if len(options) == 1:
        return options[0]
    rests = lambda reading: (
        not isinstance(attempt(reading.origin("identity"), "identity"), Conflict)
    )
    kept = [reading for reading in options if rests(reading)]
    most = max(reading.coverage for reading in kept or options)
    best = [reading for reading in kept or options if reading.coverage == most]
    if len(best) == 1 or kept:
        return best[0]
    new = [name for name, origin in best[0].origin("identity").items() if origin.new]
    return Conflict(
        "layers have no names of their own, and the order in which they are read does not tell "
        f"where a block begins: the first new one may begin with {new[0]}",
        "layers",
        params=tuple(new[:4]),
        hint='give blocks a module of their own, or names: name=f"block_{i}"',
    )
