"""Candidates for the origin of each leaf of the big model, the likeliest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trainkit.growth.depth.alignment import PLACES, Origins, alignments
from trainkit.growth.depth.flat_model import Shapes
from trainkit.growth.depth.program_order import Reading, in_order, readings
from trainkit.growth.errors import Conflict

# Tries to add layers for some origins and an operator. A `Conflict` means that it failed.
Attempt = Callable[[Origins, str], Any]


def candidates(
    small: Shapes, big: Shapes, how: str, attempt: Attempt
) -> Iterator[Origins | Conflict]:
    """Origins by names, and by the order in which the programs use their parameters.

    Args:
      small, big: leaf name -> shape, in the order in which the programs use them.
      how: the order of new layers; see `depth.alignment.order`. Identities are proved afterwards,
        so all candidates are useful. Copies are not proved, so only the likeliest candidate is.
      attempt: tests whether new layers with some origins can be identities.
    """
    named = alignments(small, big, how)
    known = [] if isinstance(named, Conflict) else named
    if how in PLACES:
        yield from known
    else:
        ordered = [origins for origins in known if in_order(origins, small, big)]
        if ordered:
            yield from ordered
            return
    options = readings(small, big)
    if how not in PLACES and options:
        blocks = _blocks(options, attempt)
        if isinstance(blocks, Conflict):
            yield blocks
            return
        options = [blocks]
    by_order = [reading.origin(how) for reading in options]
    yield from (origins for origins in by_order if origins not in known or how not in PLACES)
    if not options and how not in PLACES:
        yield from known
    if not options and isinstance(named, Conflict):
        yield named


def _blocks(options: list[Reading], attempt: Attempt) -> Reading | Conflict:
    """The reading whose periods are blocks: they can be identities, and cover the most leaves."""
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
        "layers have no names of their own, and the order in which parameters are used does not "
        f"determine where a block starts: the first new block may start with {new[0]}",
        "layers",
        params=tuple(new[:4]),
        hint='make each block a module of its own, or name the blocks: name=f"block_{i}"',
    )
