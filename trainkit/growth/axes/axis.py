"""Axes of the two programs, as nodes of a union-find. Equations determine their structure.

A node is a leaf (an axis of size n that becomes m), a product (merged factors in row-major order,
such as heads × head_dim) or a sum (segments one after another, such as a merged qkv).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

_ids = itertools.count()


class Axis:
    """A node. Always access it through `find`, because unification redirects nodes.

    Attributes:
      small, big: the size of the axis in the two programs.
      kind: "leaf", "prod" or "sum".
      parts: the factors or segments.
      source: the index map of a leaf, if it has one: int64[big], the old unit that each new unit
        copies, −1 for none.
      ordered: whether the leaf can never be split: its units are ranks of a sorted order, and
        copies of a unit are neighbours.
    """

    __slots__ = ("big", "kind", "ordered", "parent", "parts", "small", "source", "uid")

    def __init__(self, small: int, big: int, kind: str = "leaf", parts: Sequence[Axis] = ()):
        self.small, self.big = int(small), int(big)
        self.kind, self.parts = kind, tuple(parts)
        self.parent: Axis | None = None
        self.source: np.ndarray | None = None
        self.ordered = False
        self.uid = next(_ids)

    @property
    def fixed(self) -> bool:
        return self.small == self.big

    def __repr__(self) -> str:
        return show(self)


def find(node: Axis) -> Axis:
    root = node
    while root.parent is not None:
        root = root.parent
    while node.parent is not None:
        node.parent, node = root, node.parent
    return root


def show(node: Axis) -> str:
    """The structure of an axis as text: `4→8·16`, `[8→16 | 8→16]`."""
    node = find(node)
    if node.kind == "leaf":
        return str(node.small) if node.fixed else f"{node.small}→{node.big}"
    inner = [show(p) for p in node.parts]
    return "·".join(inner) if node.kind == "prod" else "[" + " | ".join(inner) + "]"


def factors(node: Axis) -> list[Axis]:
    """The factors of a node: leaves and sums, without factors of size 1."""
    node = find(node)
    if node.kind == "prod":
        return [f for p in node.parts for f in factors(p)]
    return [] if node.small == node.big == 1 else [node]


def product(parts: Sequence[Axis]) -> Axis:
    flat = [f for p in parts for f in factors(p)]
    if not flat:
        return Axis(1, 1)
    if len(flat) == 1:
        return flat[0]
    return Axis(math.prod(f.small for f in flat), math.prod(f.big for f in flat), "prod", flat)


def segments(node: Axis) -> list[Axis]:
    """The segments of a node. A product is distributed over its first factor if that is a sum."""
    node = find(node)
    if node.kind == "sum":
        return [s for p in node.parts for s in segments(p)]
    if node.kind == "prod":
        flat = factors(node)
        if flat[0].kind == "sum":
            return [product([s, *flat[1:]]) for s in segments(flat[0])]
    return [] if node.small == node.big == 0 else [node]


def concatenation(parts: Sequence[Axis]) -> Axis:
    flat = [s for p in parts for s in segments(p)]
    if not flat:
        return Axis(0, 0)
    if len(flat) == 1:
        return flat[0]
    return Axis(sum(s.small for s in flat), sum(s.big for s in flat), "sum", flat)
