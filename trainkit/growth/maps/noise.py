"""Noise on the weights of copies that sums to zero over them, so that the function stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.queries import coordinate, labels, source_map
from trainkit.growth.axes.structures import axis_from, grown_nodes
from trainkit.growth.maps.draw import normal
from trainkit.growth.maps.kernel import vector
from trainkit.growth.plan.data import AxisPlan, PlanData


class Noise(NamedTuple):
    """Where noise may be added to a leaf.

    Attributes:
      axis: over whose copies it sums to 0.
      group: int[n′], for each new unit of the axis the group that it belongs to, −1 for none.
      same: other axes along whose copies the noise must be the same, and their old units.
    """

    axis: int
    group: np.ndarray
    same: Mapping[int, np.ndarray]


def noise_groups(plan: PlanData) -> dict[str, Noise]:
    """Path -> where noise may be added; leaves that are not named take none."""
    nodes = grown_nodes(plan.grown_axes)
    result: dict[str, Noise] = {}
    for leaf in plan.leaves:
        for d, planned in enumerate(leaf.axes):
            if planned is None or not any(planned.splits):
                continue
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
    label = labels(axis)[0][np.where(source < 0, 0, source)]
    group = np.full(len(source), -1)
    for segment, split in enumerate(planned.splits):
        if not split:
            continue
        # Copies that differ in split axes alone sum to zero: fix all other coordinates.
        at = (label == segment) & (source >= 0)
        keys = [source[at]]
        for n, node in enumerate(nodes):
            place = coordinate(axis, node, of_big=True)
            if n not in split and (place[at] >= 0).any():
                keys.append(place[at])
        _, ids = np.unique(np.stack(keys), axis=1, return_inverse=True)
        group[at] = ids.reshape(-1) + group.max() + 1
    return group


def zero_sum(key: jax.Array, shape: tuple[int, ...], noise: Noise, dtype: Any) -> jax.Array:
    """Noise of root mean square 1 whose sum over the copies of each unit is 0, along one axis.

    A unit draws a direction; its copies move along it by shares that sum to 0. Of several axes the
    first is enough for the function. Units without copies get no noise.
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
