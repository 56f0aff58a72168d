"""The numbers of a certificate, from gradients, updates and parameters of the grown model."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves
from trainkit.growth.maps.algebra import expand
from trainkit.growth.maps.growth_map import MapData

PyTree = Any
STEEP = 100  # times the gradients of old leaves; those of layers at their start are below 10 times


def expected_gradients(grads: PyTree, grown: PyTree, growth: MapData) -> dict[str, jax.Array]:
    """Leaf name -> f · g[π], for leaves with an exact gradient factor.

    Args:
      grads: the small model's gradients.
      grown: the grown parameters, for their names.
      growth: the map of the parameters.
    """
    small, found = named_leaves(grads), {}
    for name in named_leaves(grown):
        origin, how = growth.origin_of(name), growth.leaves.get(name)
        if origin.leaf is not None and not origin.new and how is not None and how.exact_gradient:
            found[name] = expand(small[origin.leaf], how, gradient=1)
    return found


def residual(
    grads: PyTree, grown: PyTree, expected: dict[str, jax.Array], growth: MapData
) -> float:
    """The maximum over leaves of ‖g′ − f·g[π]‖ / ‖f·g[π]‖, without padding units.

    Args:
      grads, grown: gradients of the small and of the grown model.
      expected: the result of `expected_gradients`.
      growth: the map of the parameters.
    """
    wide = lambda x: np.asarray(x, np.float64)
    total = math.sqrt(sum(float(np.sum(wide(x) ** 2)) for x in jax.tree.leaves(grads)))
    leaves, worst = named_leaves(grown), 0.0
    for name, copied in expected.items():
        known = np.ones(copied.shape, bool)
        for d, axis in enumerate(growth.leaves[name].axes):
            if axis is not None:
                keep = (axis.source >= 0) & (axis.gradient != 0)
                known &= keep.reshape([-1 if e == d else 1 for e in range(known.ndim)])
        difference = np.where(known, wide(leaves[name]) - wide(copied), 0.0)
        # The gradient of a leaf may be rounding noise (a bias before a norm): use the total norm.
        size = max(float(np.linalg.norm(wide(copied))), 1e-3 * total)
        worst = max(worst, float(np.linalg.norm(difference)) / (size or 1.0))
    return worst


def steep(grads: PyTree, growth: MapData) -> dict[str, float]:
    """Leaf of a new layer -> the norm of its gradient over the largest of an old leaf, if over 100.

    Args:
      grads: gradients of the grown model.
      growth: the map of the parameters.
    """
    wide = lambda x: np.asarray(x, np.float64)  # in NumPy, which compiles nothing for each shape
    norms = {name: float(np.linalg.norm(wide(g))) for name, g in named_leaves(grads).items()}
    largest = max((norm for name, norm in norms.items() if name not in growth.new), default=0.0)
    limit = STEEP * largest
    return {name: norms[name] / largest for name in growth.new if norms[name] > limit > 0}


def predicted_norm(update: PyTree, grown: PyTree, growth: MapData) -> jax.Array:
    """The norm of the small model's update, expanded like a weight."""
    small, squares = named_leaves(update), jnp.zeros(())
    for name in named_leaves(grown):
        origin, how = growth.origin_of(name), growth.leaves.get(name)
        if origin.leaf is not None and not origin.new:
            u = small[origin.leaf]
            u = u if how is None else expand(u, how, weight=1, new="fill")
            squares += jnp.sum(u.astype(squares.dtype) ** 2)
    return jnp.sqrt(squares)


def fresh(params: PyTree, growth: MapData) -> dict[str, int]:
    """Leaf name -> number of entries in padding units."""
    leaves, found = named_leaves(params), {}
    for name, how in growth.leaves.items():
        old = 1
        for n, axis in zip(leaves[name].shape, how.axes, strict=True):
            old *= n if axis is None else int(np.sum(axis.source >= 0))
        if leaves[name].size > old:
            found[name] = int(leaves[name].size) - old
    return found


def dead(grads: PyTree, growth: MapData) -> tuple[str, ...]:
    """Padding units and copies whose gradient is 0, in leaves whose gradient is not 0."""
    silent_units = []
    leaves = named_leaves(grads)
    for name, how in growth.leaves.items():
        g = np.asarray(leaves[name], np.float64)
        for d, axis in enumerate(how.axes):
            if axis is not None and np.any(g):
                others = tuple(e for e in range(g.ndim) if e != d)
                silent = np.flatnonzero(~np.any(g, axis=others))
                # The first copy of a unit is not listed: the unit was dead before growth.
                silent_units += [
                    f"{name}, axis {d}: unit {j}" for j in silent if _is_new(axis.source, int(j))
                ]
    return tuple(silent_units)


def _is_new(source: np.ndarray, j: int) -> bool:
    return source[j] < 0 or j != _first(source, j)


def _first(source: np.ndarray, j: int) -> int:
    """The first copy of the unit that unit j copies."""
    return int(np.flatnonzero(source == source[j])[0])


def apart(params: PyTree, growth: MapData) -> tuple[float, float] | None:
    """(smallest, median) relative distance between copies of a unit; `None` without copies."""
    distances = []
    leaves = named_leaves(params)
    for name, how in growth.leaves.items():
        w = np.asarray(leaves[name], np.float64)
        for d, axis in enumerate(how.axes):
            if axis is None:
                continue
            rows, source = np.moveaxis(w, d, 0).reshape(w.shape[d], -1), axis.source
            for j in range(len(source)):
                first = _first(source, j)
                if source[j] >= 0 and first != j and axis.weight[j] and axis.weight[first]:
                    x, y = rows[j] / axis.weight[j], rows[first] / axis.weight[first]
                    size = max(float(np.linalg.norm(x)), float(np.linalg.norm(y)))
                    distances.append(float(np.linalg.norm(x - y)) / size if size else 0.0)
    if not distances:
        return None
    return float(np.min(distances)), float(np.median(distances))
