"""Alignment of layers by the order in which the programs use parameters, if names do not help.

`Dense_0` to `Dense_9` of one compact module may be blocks of a norm and two layers each, between an
input and an output layer. In the order of use they are a periodic sequence, and the big model has
more repeats of the period.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trainkit.growth.depth.alignment import order
from trainkit.growth.plan.data import Origin

Shapes = Mapping[str, tuple[int, ...]]
LIMIT = 64  # alignments looked at


class _Part(NamedTuple):
    """Consecutive leaves with one parent."""

    leaves: tuple[str, ...]
    kind: tuple[str, ...]  # their names without numbers
    shapes: tuple[tuple[int, ...], ...]

    def like(self, other: _Part) -> bool:
        """Whether both have the same names and ranks."""
        ranks = lambda part: tuple(map(len, part.shapes))
        return self.kind == other.kind and ranks(self) == ranks(other)

    def equals(self, other: _Part) -> bool:
        """Whether both have the same names and shapes."""
        return self.kind == other.kind and self.shapes == other.shapes


class _Period(NamedTuple):
    """A period of `length` parts. It starts at part `start` of the small model and part `there` of
    the big one, and is repeated `old` times in the small and `new` times in the big model."""

    start: int
    there: int
    length: int
    old: int
    new: int


class Reading(NamedTuple):
    """One division of both models into periods, of which the big model has more repeats."""

    small: Sequence[_Part]
    big: Sequence[_Part]
    periods: Sequence[_Period]

    def origin(self, how: str) -> dict[str, Origin]:
        """Leaf of the big model -> its `Origin`, with new repeats added by an operator."""
        return _origin(self.small, self.big, self.periods, how)

    @property
    def coverage(self) -> tuple[int, int]:
        """The number of parts of the small model in periods, and minus the total period length."""
        return sum(t.length * t.old for t in self.periods), -sum(t.length for t in self.periods)


def readings(small: Shapes, big: Shapes) -> list[Reading]:
    """All divisions of two models into periods, the likeliest first.

    Args:
      small, big: leaf name -> shape, in the order in which the programs use them.

    >>> layer = lambda i: {f"Norm_{i}/scale": (8,), f"Dense_{i + 1}/kernel": (8, 8)}
    >>> ends = lambda i: {f"Norm_{i}/scale": (8,), f"Dense_{i + 1}/kernel": (8, 2)}
    >>> small = {"Dense_0/kernel": (4, 8), **layer(0), **ends(1)}
    >>> big = {"Dense_0/kernel": (4, 8), **layer(0), **layer(1), **ends(2)}
    >>> readings(small, big)[0].origin("stack")["Norm_2/scale"]
    Origin(leaf='Norm_1/scale', new=False)
    """
    a, b = _parts(small), _parts(big)
    result = [Reading(a, b, runs) for runs in itertools.islice(_alignments(a, b, 0, 0), LIMIT)]
    return sorted(result, key=lambda reading: reading.coverage, reverse=True)


def in_order(origin: Mapping[str, Origin], small: Shapes, big: Shapes) -> bool:
    """Whether each run of new leaves copies consecutive old leaves of the same shapes.

    A run may repeat the old leaves, always from the same first one.
    """
    place = {name: i for i, name in enumerate(small)}
    shape = {old.leaf: big[name] for name, old in origin.items() if not old.new}
    start = last = None
    for name in big:
        leaf, new = origin[name]
        if not new:
            start = None
            continue
        if leaf not in place or shape.get(leaf) != big[name]:
            return False
        at = place[leaf]
        if start is not None and last is not None and at not in (start, last + 1):
            return False
        start, last = (at if start is None else start), at
    return True


def _parts(shapes: Shapes) -> list[_Part]:
    parts = []
    parent = lambda name: name.rpartition("/")[0]
    for key, group in itertools.groupby(shapes, parent):
        for leaves in [tuple(group)] if key else ((leaf,) for leaf in group):
            kind = tuple(re.sub(r"\d+", "#", leaf) for leaf in leaves)
            parts.append(_Part(leaves, kind, tuple(tuple(shapes[leaf]) for leaf in leaves)))
    return parts


def _alignments(
    small: Sequence[_Part], big: Sequence[_Part], i: int, j: int
) -> Iterator[list[_Period]]:
    """Divisions of small[i:] and big[j:] into periods; early and short periods first."""
    extra = (len(big) - j) - (len(small) - i)
    if extra == 0:
        if all(x.like(y) for x, y in zip(small[i:], big[j:], strict=True)):
            yield []
        return
    if extra < 0:
        return
    for ahead in range(len(small) - i):
        if ahead and not small[i + ahead - 1].like(big[j + ahead - 1]):
            return
        start, there = i + ahead, j + ahead
        for length in range(1, min(extra, len(small) - start) + 1):
            pairs = zip(small[start : start + length], big[there : there + length], strict=True)
            if not all(x.like(y) for x, y in pairs):
                break
            if ahead >= length and _repeats(small, start - length, length) > 1:
                continue  # the same period, started one repeat earlier
            old, most = _repeats(small, start, length), _repeats(big, there, length)
            for new in range(most, old, -1):
                rest = _alignments(small, big, start + old * length, there + new * length)
                for more in rest:
                    yield [_Period(start, there, length, old, new), *more]


def _repeats(parts: Sequence[_Part], start: int, length: int) -> int:
    """How often the `length` parts from `start` are repeated."""
    count = 1
    while all(
        (at := start + count * length + k) < len(parts) and parts[at].equals(parts[start + k])
        for k in range(length)
    ):
        count += 1
    return count


def _origin(
    small: Sequence[_Part], big: Sequence[_Part], runs: Sequence[_Period], how: str
) -> dict[str, Origin]:
    pairs: list[tuple[int, bool]] = []
    at = 0
    for run in runs:
        pairs += [(k, False) for k in range(at, run.start)]
        for repeat, fresh in order(run.old, run.new, how):
            first = run.start + repeat * run.length
            pairs += [(first + k, fresh) for k in range(run.length)]
        at = run.start + run.old * run.length
    pairs += [(k, False) for k in range(at, len(small))]
    return {
        leaf: Origin(source, fresh)
        for part, (k, fresh) in zip(big, pairs, strict=True)
        for leaf, source in zip(part.leaves, small[k].leaves, strict=True)
    }
