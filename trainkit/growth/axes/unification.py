"""Axes that meet in an equation are one: the structure of each becomes the structure of both."""

from __future__ import annotations

import dataclasses

from trainkit.growth.axes.axis import Axis, concatenation, factors, find, product, segments, show


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """Why two axes that one equation joins have no common structure."""

    why: str


Parts = tuple[Axis, Axis]


def unify(a: Axis, b: Axis) -> Mismatch | None:
    """Makes two axes one, and refines both where needed.

    Returns:
      `None`, or why they cannot be one; what has been refined on the way stays.
    """
    a, b = find(a), find(b)
    if a is b:
        return None
    if (a.small, a.big) != (b.small, b.big):
        return Mismatch(f"{show(a)} and {show(b)} differ in size")
    if a.fixed and a.kind != b.kind and "leaf" not in (a.kind, b.kind):
        _freeze(a)
        _freeze(b)
    if a.kind != "leaf":
        a, b = b, a
    if a.kind == "leaf":
        if a.ordered and not a.fixed and b.kind != "leaf":
            return Mismatch(f"{show(a)} has ranks, which are not taken apart as {show(b)}")
        a.parent, b.ordered = b, a.ordered or b.ordered
        return None
    if "sum" in (a.kind, b.kind):
        wrong = _unify_segments(segments(a), segments(b))
    else:
        wrong = _unify_factors(factors(a), factors(b))
    if wrong is not None:
        if not a.fixed:
            return wrong if _unify_copies(a, b) is not None else None
        _freeze(a)
        _freeze(b)
    a, b = find(a), find(b)
    if a is not b:
        a.parent = b
    return None


def _unify_copies(a: Axis, b: Axis) -> Mismatch | None:
    """Every unit becomes k side by side: so do all parts, wherever the borders of either lie.

    The groups of a GroupNorm may so lie across the seam of a concatenation.
    """
    if a.small < 2 or a.big % a.small:
        return Mismatch(f"{show(a)} does not grow to a multiple")
    pieces = [split_product(x, x.small, x.small) for x in (a, b)]
    for found in pieces:
        if isinstance(found, Mismatch):
            return found
    (first, copies), (second, others) = pieces
    if (wrong := unify(copies, others) or unify(first, second)) is not None:
        return wrong
    a, b = find(a), find(b)
    a.kind, a.parts = "prod", (first, copies)
    if b is not a:
        b.parent = a
    return None


def _freeze(node: Axis) -> None:
    """Forgets the inner structure of an axis that does not grow: its map is the identity anyway."""
    node = find(node)
    node.kind, node.parts = "leaf", ()


def _refine(x: Axis, kind: str, first: Axis, rest: Axis) -> Parts | Mismatch:
    """Takes a leaf apart."""
    if x.ordered and not x.fixed:
        return Mismatch(f"{show(x)} has ranks, which are not taken apart")
    x.kind, x.parts = kind, (first, rest)
    return first, rest


def _unify_factors(fa: list[Axis], fb: list[Axis]) -> Mismatch | None:
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
            if (wrong := unify(x, y)) is not None:
                return wrong
            fa.pop(0)
            fb.pop(0)
            continue
        if x.small < y.small or x.big < y.big:
            x, y, fa, fb = y, x, fb, fa
        pieces: Parts | Mismatch = Mismatch(f"{show(x)} and {show(y)} have no common factors")
        if x.small >= y.small and x.big >= y.big and not x.small % y.small and not x.big % y.big:
            pieces = split_product(x, y.small, y.big)
        if isinstance(pieces, Mismatch):
            if not _skip_fixed(fa, fb):
                return pieces
            continue
        first, rest = pieces
        if (wrong := unify(first, y)) is not None:
            return wrong
        fb.pop(0)
        fa[0] = rest
    return None


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


def split_product(x: Axis, small: int, big: int) -> Parts | Mismatch:
    """Splits a node into a first factor small → big and the rest, in place."""
    x = find(x)
    if (x.small, x.big) == (small, big):
        return x, Axis(1, 1)
    if small == big == 1:
        return Axis(1, 1), x
    if not small or not big or x.small % small or x.big % big:
        return Mismatch(f"{show(x)} has no first factor {small}→{big}")
    rest_small, rest_big = x.small // small, x.big // big
    if big < small or rest_big < rest_small:
        return Mismatch(f"{show(x)} as {small}→{big} times {rest_small}→{rest_big} would shrink")
    if x.kind == "leaf":
        return _refine(x, "prod", Axis(small, big), Axis(rest_small, rest_big))
    if x.kind == "prod":
        return _split_factors(x, small, big)
    return _split_segments(x, Axis(rest_small, rest_big))


def _split_factors(x: Axis, small: int, big: int) -> Parts | Mismatch:
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
        pieces = split_product(f, small // s, big // b)
        if isinstance(pieces, Mismatch):
            return pieces
        head, tail = pieces
        return product([*flat[:i], head]), product([tail, *flat[i + 1 :]])
    return Mismatch(f"{show(x)} has no first factor {small}→{big}")


def _split_segments(x: Axis, rest: Axis) -> Parts | Mismatch:
    """A sum into a first factor and `rest`, which every segment has as its last factor."""
    heads = []
    for part in segments(x):
        if part.small % rest.small or part.big % rest.big:
            return Mismatch(f"{show(x)} has no last factor {rest.small}→{rest.big}")
        pieces = split_product(part, part.small // rest.small, part.big // rest.big)
        if isinstance(pieces, Mismatch):
            return pieces
        head, tail = pieces
        if (wrong := unify(tail, rest)) is not None:
            return wrong
        heads.append(head)
    return concatenation(heads), rest


def _unify_segments(sa: list[Axis], sb: list[Axis]) -> Mismatch | None:
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
            if (wrong := unify(x, y)) is not None:
                return wrong
            sa.pop(0)
            sb.pop(0)
            continue
        if x.small < y.small or x.big < y.big:
            x, y, sa, sb = y, x, sb, sa
        if x.small < y.small or x.big < y.big:
            return Mismatch(f"the segments {show(x)} and {show(y)} do not line up")
        pieces = cut(x, y.small, y.big)
        if isinstance(pieces, Mismatch):
            return pieces
        first, rest = pieces
        if (wrong := unify(first, y)) is not None:
            return wrong
        sb.pop(0)
        sa[0] = rest
    return Mismatch("the segments do not line up") if sa or sb else None


def cut(x: Axis, small: int, big: int) -> Parts | Mismatch:
    """Cuts a node into a first segment small → big and the rest, in place."""
    x = find(x)
    rest_small, rest_big = x.small - small, x.big - big
    if (x.small, x.big) == (small, big):
        return x, Axis(0, 0)
    if (small, big) == (0, 0):
        return Axis(0, 0), x
    if small <= 0 or rest_small <= 0 or big < small or rest_big < rest_small:
        return Mismatch(
            f"{show(x)} has no first segment {small}→{big} (the rest would be "
            f"{rest_small}→{rest_big})"
        )
    if x.kind == "leaf":
        return _refine(x, "sum", Axis(small, big), Axis(rest_small, rest_big))
    return _cut_segments(x, small, big) if x.kind == "sum" else _cut_factors(x, small, big)


def _cut_segments(x: Axis, small: int, big: int) -> Parts | Mismatch:
    parts = segments(x)
    s = b = 0
    for i, part in enumerate(parts):
        if (s, b) == (small, big):
            return concatenation(parts[:i]), concatenation(parts[i:])
        if s + part.small <= small and b + part.big <= big:
            s, b = s + part.small, b + part.big
            continue
        pieces = cut(part, small - s, big - b)
        if isinstance(pieces, Mismatch):
            return pieces
        head, tail = pieces
        return concatenation([*parts[:i], head]), concatenation([tail, *parts[i + 1 :]])
    return Mismatch(f"{show(x)} has no first segment {small}→{big}")


def _cut_factors(x: Axis, small: int, big: int) -> Parts | Mismatch:
    """A product is cut through its first factor."""
    flat = factors(x)
    inner = product(flat[1:])
    if small % inner.small or big % inner.big:
        return Mismatch(f"{show(x)} has no first segment {small}→{big}")
    pieces = cut(flat[0], small // inner.small, big // inner.big)
    if isinstance(pieces, Mismatch):
        return pieces
    head, tail = pieces
    return product([head, *flat[1:]]), product([tail, *flat[1:]])
