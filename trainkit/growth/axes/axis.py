"""Axes of the two programs: nodes of a union-find, refined in place as equations reveal structure.

A node is a leaf (an axis of size n that becomes N), a product (merged factors in row-major order:
heads × head_dim) or a sum (segments one after another: a concatenation, a merged qkv). Two axes
that meet in an equation are unified: the structure of one becomes the structure of both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

_ids = itertools.count()


class Mismatch(Exception):
    """Two axes that one equation joins have no common structure."""


class Axis:
    """A node; read it through `find`, since unification redirects nodes.

    Attributes:
      small, big: the size of the axis in the two programs.
      kind: "leaf", "prod" or "sum".
      parts: the factors or segments.
      source: for a leaf whose map has been fixed, int64[big] with the old unit each new unit
        copies, −1 for none.
      ordered: a leaf that is never taken apart: its units are ranks, and copies neighbours.
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
    """The factors of a node: leaves and sums, sizes of one left out."""
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
    """The segments of a node; a product whose first factor is a sum is distributed over it."""
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


def _freeze(node: Axis) -> None:
    """Forgets the inner structure of an axis that does not grow: its map is the identity anyway."""
    node = find(node)
    node.kind, node.parts = "leaf", ()


def _become(node: Axis, kind: str, parts: Sequence[Axis]) -> None:
    node.kind, node.parts = kind, tuple(parts)


def _keep_ranks(x: Axis) -> None:
    if x.ordered and not x.fixed:
        raise Mismatch(f"{show(x)} has ranks, which are not taken apart")


def unify(a: Axis, b: Axis) -> None:
    """Makes two axes one; refines both where needed; raises `Mismatch`."""
    a, b = find(a), find(b)
    if a is b:
        return
    if (a.small, a.big) != (b.small, b.big):
        raise Mismatch(f"{show(a)} and {show(b)} differ in size")
    if a.fixed and a.kind != b.kind and "leaf" not in (a.kind, b.kind):
        _freeze(a)
        _freeze(b)
    if a.kind != "leaf":
        a, b = b, a
    if a.kind == "leaf":
        if a.ordered and not a.fixed and b.kind != "leaf":
            raise Mismatch(f"{show(a)} has ranks, which are not taken apart as {show(b)}")
        a.parent, b.ordered = b, a.ordered or b.ordered
        return
    try:
        if a.kind == "sum" or b.kind == "sum":
            _unify_segments(segments(a), segments(b))
        else:
            _unify_factors(factors(a), factors(b))
    except Mismatch:
        if not a.fixed:
            raise
        _freeze(a)
        _freeze(b)
    a, b = find(a), find(b)
    if a is not b:
        a.parent = b


def _unify_factors(fa: list[Axis], fb: list[Axis]) -> None:
    fa, fb = list(fa), list(fb)
    while fa and fb:
        x, y = find(fa[0]), find(fb[0])
        if x.kind == "prod":  # refined meanwhile
            fa[:1] = factors(x)
            continue
        if y.kind == "prod":
            fb[:1] = factors(y)
            continue
        if (x.small, x.big) == (y.small, y.big):
            unify(x, y)
            fa.pop(0)
            fb.pop(0)
            continue
        if x.small < y.small or x.big < y.big:
            x, y, fa, fb = y, x, fb, fa
        if x.small >= y.small and x.big >= y.big and not x.small % y.small and not x.big % y.big:
            try:
                first, rest = split_product(x, y.small, y.big)
            except Mismatch:
                if not _skip_fixed(fa, fb):
                    raise
                continue
            unify(first, y)
            fb.pop(0)
            fa[0] = rest
        elif not _skip_fixed(fa, fb):
            raise Mismatch(f"{show(x)} and {show(y)} have no common factors")


def _skip_fixed(fa: list[Axis], fb: list[Axis]) -> bool:
    """Drops from both lists runs of factors that do not grow and whose products agree."""
    i = j = 0
    p = q = 1
    while True:
        if p == q and i and j:
            del fa[:i], fb[:j]
            return True
        if p <= q:
            if i == len(fa) or not find(fa[i]).fixed:
                return False
            p *= find(fa[i]).small
            i += 1
        else:
            if j == len(fb) or not find(fb[j]).fixed:
                return False
            q *= find(fb[j]).small
            j += 1


def split_product(x: Axis, small: int, big: int) -> tuple[Axis, Axis]:
    """Splits a node into a first factor small → big and the rest, in place."""
    x = find(x)
    if (x.small, x.big) == (small, big):
        return x, Axis(1, 1)
    if small == big == 1:
        return Axis(1, 1), x
    if not small or not big or x.small % small or x.big % big:
        raise Mismatch(f"{show(x)} has no first factor {small}→{big}")
    rest_small, rest_big = x.small // small, x.big // big
    if big < small or rest_big < rest_small:
        raise Mismatch(f"{show(x)} as {small}→{big} times {rest_small}→{rest_big} would shrink")
    if x.kind == "leaf":
        _keep_ranks(x)
        first, rest = Axis(small, big), Axis(rest_small, rest_big)
        _become(x, "prod", [first, rest])
        return first, rest
    if x.kind == "prod":
        flat = factors(x)
        s = b = 1
        for i, f in enumerate(flat):
            f = find(f)
            if (s, b) == (small, big):
                return product(flat[:i]), product(flat[i:])
            if small % (s * f.small) == 0 and big % (b * f.big) == 0:
                s, b = s * f.small, b * f.big
                continue
            if small % s or big % b:
                break
            head, tail = split_product(f, small // s, big // b)
            return product([*flat[:i], head]), product([tail, *flat[i + 1 :]])
        raise Mismatch(f"{show(x)} has no first factor {small}→{big}")
    parts = segments(x)
    rest = Axis(rest_small, rest_big)
    heads = []
    for part in parts:
        if part.small % rest_small or part.big % rest_big:
            raise Mismatch(f"{show(x)} has no last factor {rest_small}→{rest_big}")
        head, tail = split_product(part, part.small // rest_small, part.big // rest_big)
        unify(tail, rest)
        heads.append(head)
    first = concatenation(heads)
    return first, rest


def _unify_segments(sa: list[Axis], sb: list[Axis]) -> None:
    sa, sb = list(sa), list(sb)
    while sa and sb:
        x, y = find(sa[0]), find(sb[0])
        if len(segments(x)) > 1:
            sa[:1] = segments(x)
            continue
        if len(segments(y)) > 1:
            sb[:1] = segments(y)
            continue
        if (x.small, x.big) == (y.small, y.big):
            unify(x, y)
            sa.pop(0)
            sb.pop(0)
            continue
        if x.small < y.small or x.big < y.big:
            x, y, sa, sb = y, x, sb, sa
        if x.small < y.small or x.big < y.big:
            raise Mismatch(f"the segments {show(x)} and {show(y)} do not line up")
        first, rest = cut(x, y.small, y.big)
        unify(first, y)
        sb.pop(0)
        sa[0] = rest
    if sa or sb:
        raise Mismatch("the segments do not line up")


def cut(x: Axis, small: int, big: int) -> tuple[Axis, Axis]:
    """Cuts a node into a first segment small → big and the rest, in place."""
    x = find(x)
    rest_small, rest_big = x.small - small, x.big - big
    if (x.small, x.big) == (small, big):
        return x, Axis(0, 0)
    if (small, big) == (0, 0):
        return Axis(0, 0), x
    if small <= 0 or rest_small <= 0 or big < small or rest_big < rest_small:
        raise Mismatch(
            f"{show(x)} has no first segment {small}→{big} (the rest would be "
            f"{rest_small}→{rest_big})"
        )
    if x.kind == "leaf":
        _keep_ranks(x)
        first, rest = Axis(small, big), Axis(rest_small, rest_big)
        _become(x, "sum", [first, rest])
        return first, rest
    if x.kind == "sum":
        parts = segments(x)
        s = b = 0
        for i, part in enumerate(parts):
            if (s, b) == (small, big):
                return concatenation(parts[:i]), concatenation(parts[i:])
            if s + part.small <= small and b + part.big <= big:
                s, b = s + part.small, b + part.big
                continue
            head, tail = cut(part, small - s, big - b)
            return concatenation([*parts[:i], head]), concatenation([tail, *parts[i + 1 :]])
        raise Mismatch(f"{show(x)} has no first segment {small}→{big}")
    flat = factors(x)
    inner = product(flat[1:])
    if small % inner.small or big % inner.big:
        raise Mismatch(f"{show(x)} has no first segment {small}→{big}")
    head, tail = cut(flat[0], small // inner.small, big // inner.big)
    return product([head, *flat[1:]]), product([tail, *flat[1:]])
