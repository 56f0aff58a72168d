"""Candidates for the origin of each leaf of the big model, the likeliest first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trainkit.growth.depth.alignment import PLACES, Origins, alignments
from trainkit.growth.depth.flat_model import FlatModel, modules, without_numbers
from trainkit.growth.depth.matching import sources
from trainkit.growth.depth.program_order import Reading, in_order, readings
from trainkit.growth.errors import Conflict
from trainkit.growth.plan.data import Origin

# Tries to add layers for some origins and an operator. A `Conflict` means that it failed.
Attempt = Callable[[Origins, str], Any]


def candidates(
    models: tuple[FlatModel, FlatModel], how: str, attempt: Attempt
) -> Iterator[Origins | Conflict]:
    """Origins by the names of leaves, by what programs compute, or by the order of their leaves.

    Args:
      models: the small and the big one.
      how: the order of new layers; see `depth.alignment.order`.
      attempt: tests whether new layers with some origins can be identities.
    """
    small, big = (model.as_used() for model in models)
    named = alignments(small, big, how)
    known = [] if isinstance(named, Conflict) else named
    if how in PLACES:
        # Identities are proved afterwards, so that all candidates are useful.
        mended = []
        for wished in (*known, {}):
            found = sources(*models, wished, exact=True) or sources(*models, wished, exact=False)
            if found is None:
                continue
            origins = _with_copies(*models, found, wished)
            if origins == wished or not wished:
                yield origins
            else:
                mended.append(origins)
        yield from mended
        yield from [named] if isinstance(named, Conflict) else named
        return
    # Copies are not proved, so that only the likeliest candidate is useful.
    ordered = [origins for origins in known if in_order(origins, small, big)]
    options = [] if ordered else readings(small, big)
    if not options:
        likeliest: list[Origins | Conflict] = [named] if isinstance(named, Conflict) else [*named]
        yield from ordered or likeliest
        return
    blocks = _blocks(options, attempt)
    yield blocks if isinstance(blocks, Conflict) else blocks.origin(how)


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


def _with_copies(
    small: FlatModel, big: FlatModel, found: Mapping[str, str | None], wished: Origins
) -> Origins:
    """The origins of the big model's leaves, with what new ones are copies of.

    Args:
      small, big: the models.
      found: leaf of the big model -> its source; `None` for new ones.
      wished: origins by names, whose copies are taken if they have the shapes of the new leaves.
    """
    module = modules(small, big)
    parts = list({id(part): part for part in (module[leaf] for leaf in big.as_used())}.values())
    kinds = [tuple((without_numbers(x), big.shapes[x]) for x in part) for part in parts]
    copied = [[found[leaf] for leaf in part] for part in parts]
    new = [not any(each) for each in copied]
    for i, j in _twins(kinds, new):
        copied[i] = copied[j]
    named = {leaf: x.leaf for leaf, x in wished.items() if x.new and x.leaf is not None}
    shapes = {source: big.shapes[leaf] for leaf, source in found.items()}
    for i, part in enumerate(parts):
        known = new[i] and named.keys() >= set(part)
        if known and (None in copied[i] or all(shapes[named[x]] == big.shapes[x] for x in part)):
            copied[i] = [named[leaf] for leaf in part]
    origins = {
        leaf: Origin(source, found[leaf] is None)
        for part, each in zip(parts, copied, strict=True)
        for leaf, source in zip(part, each, strict=True)
    }
    return {leaf: origins[leaf] for leaf in big.as_used()}


def _twins(kinds: Sequence[Any], new: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """For new modules, by number, the old ones that they are copies of.

    A run of new modules repeats the old modules right before it, or right after it, if these are of
    the same kinds; else each copies the nearest old one of its kind.
    """
    for is_new, group in itertools.groupby(range(len(new)), new.__getitem__):
        run = list(group)
        if not is_new:
            continue
        for count in (n for n in range(len(run), 0, -1) if len(run) % n == 0):
            starts = [start for start in (run[0] - count, run[-1] + 1)
                      if 0 <= start <= len(new) - count]  # fmt: skip
            pairs = [[(i, start + k % count) for k, i in enumerate(run)] for start in starts]
            alike = (
                each for each in pairs if all(kinds[i] == kinds[j] and not new[j] for i, j in each)
            )
            found = next(alike, None)
            if found is not None:
                yield from found
                break
        else:
            for i in run:
                old = (j for j, kind in enumerate(kinds) if kind == kinds[i] and not new[j])
                nearest = min(old, key=lambda j: abs(i - j), default=None)
                if nearest is not None:
                    yield i, nearest
