"""Noise on the weights of copies that sums to zero over each unit, so that the function is kept.

See `analysis.noise` for parameters that are multiplied by others with noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.queries import coordinates, labels, source_map
from trainkit.growth.axes.structures import axis_from, grown_nodes
from trainkit.growth.maps.draw import normal
from trainkit.growth.maps.kernel import vector
from trainkit.growth.plan.data import AxisPlan, PlanData


class Noise(NamedTuple):
    """Where noise may be added to a leaf.

    Attributes:
      axis: the axis over whose copies it sums to 0.
      group: int[n′], the group of each new unit of the axis, −1 for none. It sums to 0 in a group.
      same: other axes along which the noise must be equal for all copies, with their index maps.
    """

    axis: int
    group: np.ndarray
    same: Mapping[int, np.ndarray]


def noise_groups(plan: PlanData) -> dict[str, Noise]:
    """Path -> where noise may be added. Leaves without an entry get no noise."""
    nodes = grown_nodes(plan.grown_axes)
    result: dict[str, Noise] = {}
    for leaf in plan.leaves:
        for d, planned in enumerate(leaf.axes):
            if planned is None or not any(planned.splits):
                continue
            if not set(planned.ordered) <= set().union(*planned.splits):
                continue  # other copies in this axis must stay equal
            same = {
                e: source_map(find(axis_from(other.structure, nodes)))
                for e, other in enumerate(leaf.axes)
                if other and other.ordered and e != d
            }
            result.setdefault(leaf.path, Noise(d, _groups(planned, nodes), same))
    return result


def _groups(planned: AxisPlan, nodes: list[Axis]) -> np.ndarray:
    axis = find(axis_from(planned.structure, nodes))
    source = source_map(axis)
    label = labels(axis)[0][np.maximum(source, 0)]
    group = np.full(len(source), -1)
    for segment, split in enumerate(planned.splits):
        if not split:
            continue
        # The noise sums to zero over copies that differ in split axes alone, so a group has equal
        # coordinates along all others.
        at = (label == segment) & (source >= 0)
        keys = [source[at]]
        for n, node in enumerate(nodes):
            if n not in split:
                keys += [place[at] for place in coordinates(axis, node, of_big=True)]
        _, ids = np.unique(np.stack(keys), axis=1, return_inverse=True)
        group[at] = ids.reshape(-1) + group.max() + 1
    return group


def zero_sum(key: jax.Array, shape: tuple[int, ...], noise: Noise, dtype: Any) -> jax.Array:
    """Noise of root mean square 1 whose sum over the copies of each unit is 0.

    Each unit has a random direction, and its copies get multiples of it that sum to 0. Units
    without copies get no noise.

    Args:
      key: a random key.
      shape, dtype: those of the result.
      noise: where it may be added.
    """
    d, group, same = noise
    count = int(group.max()) + 1
    ids = np.where(group < 0, count, group)
    size = np.bincount(ids, minlength=count + 1)
    share = np.random.default_rng(count).normal(size=len(group))
    share -= (np.bincount(ids, share, count + 1) / np.maximum(size, 1))[ids]
    length = np.sqrt(np.bincount(ids, share**2, count + 1) / np.maximum(size, 1))[ids]
    moves = (group >= 0) & (size[ids] > 1)
    share = np.where(moves, share / np.where(moves, length, 1.0), 0.0)
    place = [np.arange(n, dtype=np.uint32) for n in shape]
    for e, at in {**same, d: ids}.items():
        place[e] = at.astype(np.uint32)
    return normal(key, place, dtype) * vector(share, d, len(shape), dtype)
