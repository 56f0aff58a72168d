"""Shares of outgoing weights between the copies of a unit: random, or even."""

from __future__ import annotations

from typing import get_args

import jax
import numpy as np

from trainkit.growth.axes.structures import grown_nodes
from trainkit.growth.plan.data import GrownAxis, How, PlanData, copies

Shares = list[np.ndarray | None]
TRACED = (
    'the key is traced, but the shares of how="uneven" are drawn on the host: give a seed (key=0), '
    "or a key that is made outside jit (for shard_map, make growth_map = plan.realise(key) outside "
    'and call growth_map.params inside); or use how="noise", which is drawn on the device'
)


def check_how(plan: PlanData, key: jax.Array | None, how: str) -> None:
    """Raises a `ValueError` for an unknown operator, a random one without a key, or uneven shares,
    which are drawn on the host, with a traced key."""
    if how not in get_args(How):
        raise ValueError(f"how={how!r}: choose one of {', '.join(get_args(How))}")
    if isinstance(key, jax.core.Tracer) and plan.grown_axes and how == "uneven":
        raise ValueError(TRACED)
    if plan.grown_axes and how not in ("even", "rms") and key is None:
        raise ValueError(
            f'how={how!r} draws random numbers: pass key=jax.random.key(0), or use how="even"'
        )


def draw_shares(plan: PlanData, key: jax.Array | None, how: How) -> Shares:
    """For each grown axis float64[big] of shares ρ̃ relative to even ones, or `None` if even.

    The mean of ρ̃ over the copies of a unit is 1.
    """
    split = set().union(*(leaf.splits for leaf in plan.leaves))
    result: Shares = [None] * len(plan.grown_axes)
    if how not in ("uneven", "zero_out"):
        return result
    nodes = grown_nodes(plan.grown_axes)
    for i, (grown, node) in enumerate(zip(plan.grown_axes, nodes, strict=True)):
        source = node.source
        assert source is not None
        if i not in split or (source < 0).any():
            continue
        if how == "zero_out":
            result[i] = _first_alone(grown, source) if grown.clean else None
        else:
            assert key is not None
            result[i] = _uneven(jax.random.fold_in(key, i), grown, source)
    return result


def _first_alone(grown: GrownAxis, source: np.ndarray) -> np.ndarray:
    """The first copy of each unit gets the whole share, the others 0."""
    first = np.zeros(len(source))
    first[np.unique(source, return_index=True)[1]] = 1.0
    return first * copies(source, grown.small)


def _uneven(key: jax.Array, grown: GrownAxis, source: np.ndarray) -> np.ndarray:
    data = jax.random.key_data(key).reshape(-1)
    if isinstance(data, jax.core.Tracer):  # in `shard_map`, every operation is traced
        raise ValueError(TRACED)
    seed = np.asarray(data)
    drawn = np.random.default_rng([int(x) for x in seed]).uniform(0.5, 1.5, len(source))
    total = np.bincount(source, drawn)
    count = copies(source, grown.small)
    return np.where(count > 1, drawn * count / total[source], 1.0)
