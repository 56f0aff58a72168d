"""Which leaf of the deeper model is which of the shallower: all answers, the likeliest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trainkit.growth.depth.alignment import Origins, alignments
from trainkit.growth.depth.program_order import Cut, cuts, in_order
from trainkit.growth.depth.sides import Shapes
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
    found = cuts(small, big)
    if how != "identity" and found:
        blocks = _blocks(found, attempt)
        if isinstance(blocks, Conflict):
            yield blocks
            return
        found = [blocks]
    by_order = [cut.origin(how) for cut in found]
    yield from (origins for origins in by_order if origins not in known or how != "identity")
    if not found and how != "identity":
        yield from known
    if not found and isinstance(named, Conflict):
        yield named


def _blocks(found: list[Cut], attempt: Attempt) -> Cut | Conflict:
    """The cut whose periods are blocks: they can be made to do nothing, and are all layers."""
    if len(found) == 1:
        return found[0]
    rests = lambda cut: not isinstance(attempt(cut.origin("identity"), "identity"), Conflict)
    kept = [cut for cut in found if rests(cut)]
    most = max(cut.covers for cut in kept or found)
    best = [cut for cut in kept or found if cut.covers == most]
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
