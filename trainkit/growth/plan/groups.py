"""Plans that repeat one axis as it is, where the programs of the two models are too different for
the analysis: the conditions under which they are exact stand with `Plan.of_experts` and
`Plan.of_groups`."""

from __future__ import annotations

import re
from typing import Any

from trainkit._core.paths import named_leaves
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import AxisPlan, GrownAxis, LeafPlan, PlanData

PyTree = Any


def repeats(
    small_params: PyTree, big_params: PyTree, *, last: str | None = None, calibrated: bool = False
) -> PlanData:
    """Each unit of the one axis that grows m times side by side, with factors 1.

    Args:
      small_params, big_params: arrays or shapes.
      last: a regular expression for the parameters whose copies may differ as long as their mean
        stays what it was.
      calibrated: whether gradients are only guessed to be shared evenly by the copies.
    """
    small, big = named_leaves(small_params), named_leaves(big_params)
    if list(small) != list(big):
        raise GrowthError(
            "the two models have different parameters",
            params=sorted(set(small) ^ set(big))[:6],
            hint="give two models with the same parameters; to make experts of a dense layer use "
            "Plan.of_mixture",
        )
    sizes: set[tuple[int, int]] = set()
    leaves = []
    for path, old in small.items():
        shapes = tuple(old.shape), tuple(big[path].shape)
        if len(shapes[0]) != len(shapes[1]):
            raise GrowthError(f"{path} has shape {shapes[0]} and {shapes[1]}", params=[path])
        grown = [d for d, (n, m) in enumerate(zip(*shapes, strict=True)) if n != m]
        sizes |= {(shapes[0][d], shapes[1][d]) for d in grown}
        reads = last is not None and re.search(last, path) is not None
        axis = AxisPlan(("leaf", 0), splits=((0,) if reads else (),))
        leaves.append(
            LeafPlan(
                path=path,
                small=shapes[0],
                big=shapes[1],
                dtype=str(old.dtype),
                axes=tuple(axis if d in grown else None for d in range(len(shapes[0]))),
                calibrated=calibrated and bool(grown),
            )
        )
    if len(sizes) != 1 or any(m % n for n, m in sizes):
        raise GrowthError(
            "one axis grows here, from one number to one multiple of it, and these differ: "
            + (", ".join(f"{n} → {m}" for n, m in sorted(sizes)) or "none"),
            params=[leaf.path for leaf in leaves if leaf.small != leaf.big],
            hint="grow widths by trainkit.growth.plan, before or after",
        )
    ((n, m),) = sizes
    return PlanData(tuple(leaves), (GrownAxis(n, m, "repeat", clean=False),))
