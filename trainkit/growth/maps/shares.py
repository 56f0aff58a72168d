"""How copies of a unit share what is read along them: drawn, or even."""

from __future__ import annotations

from typing import get_args

import jax
import numpy as np

from trainkit.growth.axes.structures import grown_nodes
from trainkit.growth.plan.data import GrownAxis, How, PlanData, copies
from trainkit.growth.plan.validation import check_key

Shares = list[np.ndarray | None]


def check_how(plan: PlanData, key: jax.Array | None, how: str) -> None:
    """Refuses an unknown operator, and one that draws where there is no key."""
    if how not in get_args(How):
        raise ValueError(f"how={how!r}: choose one of {', '.join(get_args(How))}")
    if isinstance(key, jax.core.Tracer):
        raise ValueError(
            "the maps of a growth are drawn on the host, so the key must be known: close over it "
            "instead of passing it through jit"
        )
    check_key(key)
    if plan.grown_axes and how not in ("even", "rms") and key is None:
        raise ValueError(
            f'how={how!r} draws random numbers: give key=jax.random.key(0), or take how="even"'
        )


def draw_shares(plan: PlanData, key: jax.Array | None, how: How) -> Shares:
    """For each grown axis ρ̃, the share of each copy relative to an even one (mean 1 over a unit's
    copies); `None` where copies stay even."""
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
    """The first copy of each unit is read as before, the others not at all."""
    first = np.zeros(len(source))
    first[np.unique(source, return_index=True)[1]] = 1.0
    return first * copies(source, grown.small)


def _uneven(key: jax.Array, grown: GrownAxis, source: np.ndarray) -> np.ndarray:
    seed = np.asarray(jax.random.key_data(key).reshape(-1))
    drawn = np.random.default_rng([int(x) for x in seed]).uniform(0.5, 1.5, len(source))
    total = np.bincount(source, drawn, minlength=grown.small)
    count = copies(source, grown.small)
    return np.where(count > 1, drawn * count / total[source], 1.0)
