"""Plans that repeat one axis, for models that the analysis refuses.

`Plan.of_experts` and `Plan.of_groups` state the conditions under which such a plan is exact.
"""

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
    """The plan that makes m neighbouring copies of each unit of one axis, with factors 1.

    Args:
      small_params, big_params: arrays or shapes.
      last: a regular expression for parameters whose copies may differ if their mean is kept.
      calibrated: whether even gradients of the copies are a guess.

    Raises:
      GrowthError: the leaves differ, or more than one axis grows, or not to a multiple.
    """
    small, big = named_leaves(small_params), named_leaves(big_params)
    if list(small) != list(big):
        raise GrowthError(
            "the two models have different parameters",
            params=sorted(set(small) ^ set(big))[:6],
            hint="pass two models with the same parameters; to grow a dense layer into experts use "
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
            "exactly one axis may grow here, to a multiple of its size, but these sizes differ: "
            + (", ".join(f"{n} → {m}" for n, m in sorted(sizes)) or "none"),
            params=[leaf.path for leaf in leaves if leaf.small != leaf.big],
            hint="grow other widths by trainkit.growth.plan, before or after",
        )
    ((n, m),) = sizes
    return PlanData(tuple(leaves), (GrownAxis(n, m, "repeat", clean=False),))
