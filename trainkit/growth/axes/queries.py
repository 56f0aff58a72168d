"""Reading an axis whose structure is known: its leaves, its segments, which unit copies which."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trainkit.growth.axes.axis import Axis, find


def leaves(node: Axis) -> list[Axis]:
    """The leaves of a node, in order, with repetitions."""
    node = find(node)
    if node.kind == "leaf":
        return [node]
    return [leaf for p in node.parts for leaf in leaves(p)]


def grown_leaves(node: Axis) -> list[Axis]:
    return [leaf for leaf in dict.fromkeys(leaves(node)) if not leaf.fixed]


def labels(node: Axis) -> tuple[np.ndarray, list[tuple[Axis, ...]]]:
    """The class of each old unit, and for each class the grown leaves whose product it is.

    Scales may differ from class to class; the classes are the segments of the axis.
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
    """int64[big]: the old unit each new unit copies, −1 for none.

    Args:
      node: an axis.
      source: gives the map of each leaf that grows; by default the one that it holds.
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


def coordinate(node: Axis, leaf: Axis, *, of_big: bool) -> np.ndarray:
    """For each unit of the axis its coordinate along one leaf, −1 outside that leaf's segments."""
    node, leaf = find(node), find(leaf)
    size = node.big if of_big else node.small
    if node is leaf:
        return np.arange(size)
    if node.kind == "leaf":
        return np.full(size, -1)
    inner = [(find(p), coordinate(p, leaf, of_big=of_big)) for p in node.parts]
    if node.kind == "sum":
        return np.concatenate([c for _, c in inner])
    result = inner[0][1]
    for part, c in inner[1:]:
        n = part.big if of_big else part.small
        left, right = np.repeat(result, n), np.tile(c, len(result))
        result = np.where(left >= 0, left, right)
    return result
