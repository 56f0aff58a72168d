"""Queries of an axis: its leaves, the labels of its units, its index map, its coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from trainkit.growth.axes.axis import Axis, factors, find


def leaves(node: Axis) -> list[Axis]:
    """The leaves of a node, in order; a leaf may occur several times."""
    node = find(node)
    if node.kind == "leaf":
        return [node]
    return [leaf for p in node.parts for leaf in leaves(p)]


def grown_leaves(node: Axis) -> list[Axis]:
    return [leaf for leaf in dict.fromkeys(leaves(node)) if not leaf.fixed]


def around(node: Axis, leaf: Axis) -> tuple[int, int] | None:
    """The sizes of what stands before and behind a leaf in a product of which all else is fixed.

    (1, 1) for the leaf itself; `None` if it is no factor, or if other factors grow.
    """
    parts, leaf = factors(node), find(leaf)
    at = [i for i, part in enumerate(parts) if part is leaf]
    if len(at) != 1 or any(grown_leaves(part) for part in parts if part is not leaf):
        return None
    sizes = [part.small for part in parts]
    return math.prod(sizes[: at[0]]), math.prod(sizes[at[0] + 1 :])


def labels(node: Axis) -> tuple[np.ndarray, list[tuple[Axis, ...]]]:
    """The label of each old unit (int64[small]), and for each label its grown leaves (its cell).

    Labels number the segments of the axis. Scales may differ from label to label.
    """
    node = find(node)
    if node.kind == "leaf":
        return np.zeros(node.small, np.int64), [() if node.fixed else (node,)]
    inner = [labels(p) for p in node.parts]
    if node.kind == "sum":
        offset, out, cells = 0, [], []
        for label, cell in inner:
            out.append(label + offset)
            offset += len(cell)
            cells += cell
        return np.concatenate(out), cells
    label, cell = inner[0]
    for other, more in inner[1:]:
        label = (label[:, None] * len(more) + other[None, :]).reshape(-1)
        cell = [c + m for c in cell for m in more]
    return label, cell


def source_map(node: Axis, source: Callable[[Axis], np.ndarray] | None = None) -> np.ndarray:
    """The index map of an axis: int64[big], the old unit that each new unit copies, −1 for none.

    Args:
      node: an axis.
      source: leaf that grows -> its index map; by default `Axis.source`.
    """
    node = find(node)
    if node.kind == "leaf":
        if node.fixed:
            return np.arange(node.small)
        if source is not None:
            return source(node)
        assert node.source is not None, "the maps of the leaves have not been fixed yet"
        return node.source
    inner = [(find(p), source_map(p, source)) for p in node.parts]
    if node.kind == "sum":
        offset, out = 0, []
        for part, old in inner:
            out.append(np.where(old < 0, -1, old + offset))
            offset += part.small
        return np.concatenate(out)
    old = inner[0][1]
    for part, other in inner[1:]:
        merged = np.where(
            (old[:, None] < 0) | (other[None, :] < 0),
            -1,
            old[:, None] * part.small + other[None, :],
        )
        old = merged.reshape(-1)
    return old


def coordinates(node: Axis, leaf: Axis, *, of_big: bool) -> np.ndarray:
    """The coordinates of each unit along one leaf: int64[times, units].

    A leaf may occur several times in a node: a flattened n × n matrix may have the same axis twice.
    There is a row for each time, and −1 for units outside the segments that contain the leaf.
    """
    node, leaf = find(node), find(leaf)
    size = node.big if of_big else node.small
    if node is leaf:
        return np.arange(size)[None]
    if node.kind == "leaf":
        return np.empty((0, size), np.int64)
    inner = [coordinates(p, leaf, of_big=of_big) for p in node.parts]
    if node.kind == "sum":
        times = max(map(len, inner))
        more = [np.pad(c, [(0, times - len(c)), (0, 0)], constant_values=-1) for c in inner]
        return np.concatenate(more, axis=1)
    result = inner[0]
    for c in inner[1:]:
        left, right = np.repeat(result, c.shape[1], axis=1), np.tile(c, result.shape[1])
        result = np.concatenate([left, right])
    return result
