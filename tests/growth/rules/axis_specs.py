"""Axes as data, from which Hypothesis draws: of one size, grown, merged, concatenated."""

from __future__ import annotations

import math
from typing import NamedTuple

from hypothesis import strategies as st

from trainkit.growth.axes.axis import Axis, concatenation, product


class Leaf(NamedTuple):
    """An axis of `small` units that becomes one of `big`; equal names are one axis."""

    name: str
    small: int
    big: int


class Prod(NamedTuple):
    parts: tuple


class Sum(NamedTuple):
    parts: tuple


Spec = int | Leaf | Prod | Sum


def sizes(spec: Spec) -> tuple[int, int]:
    if isinstance(spec, int):
        return spec, spec
    if isinstance(spec, Leaf):
        return spec.small, spec.big
    each = list(zip(*map(sizes, spec.parts), strict=True))
    a, b = (math.prod(x) if isinstance(spec, Prod) else sum(x) for x in each)
    return a, b


def grows(spec: Spec) -> bool:
    a, b = sizes(spec)
    return a != b


def made(spec: Spec, leaves: dict[str, Axis]) -> Axis:
    """An `Axis`; `leaves` has the named ones that there are already."""
    if isinstance(spec, int):
        return Axis(spec, spec)
    if isinstance(spec, Leaf):
        return leaves.setdefault(spec.name, Axis(spec.small, spec.big))
    parts = [made(p, leaves) for p in spec.parts]
    return product(parts) if isinstance(spec, Prod) else concatenation(parts)


def plain(spec: Spec) -> Spec:
    """An axis of the same sizes without structure: what it meets gives it one."""
    a, b = sizes(spec)
    return a if a == b else Leaf(f"whole{a}{b}", a, b)


DOUBLE, HALF_MORE, TRIPLE = Leaf("double", 2, 4), Leaf("half more", 2, 3), Leaf("triple", 2, 6)
ODD = Leaf("odd", 3, 5)
LEAVES = (DOUBLE, HALF_MORE, ODD, TRIPLE)
PARTS_FIXED = Sum((1, 2))  # of one size, with two scales
MERGED = (
    Prod((DOUBLE, 2)), Prod((2, HALF_MORE)), Prod((DOUBLE, HALF_MORE)), Sum((DOUBLE, 3)),
    Sum((DOUBLE, DOUBLE)), Sum((HALF_MORE, DOUBLE)), Sum((ODD, 1)), Prod((Sum((DOUBLE, 1)), 2)),
    Prod((HALF_MORE, HALF_MORE)), Prod((DOUBLE, DOUBLE)), Sum((HALF_MORE, Prod((2, HALF_MORE)))),
)  # fmt: skip
FIXED = (2, 3)

fixed = st.sampled_from(FIXED)
leaf = st.sampled_from(LEAVES)
structured = st.sampled_from(MERGED)
# Of few leaves, so that one stands several times in an operand, also within one dimension.
repeated = st.sampled_from(
    (HALF_MORE, Prod((DOUBLE, HALF_MORE)), Prod((HALF_MORE, HALF_MORE)), DOUBLE)
)
anything = st.one_of(fixed, leaf, leaf, structured, st.just(PARTS_FIXED))
some_leaf = st.one_of(fixed, leaf)
