"""Plans that repeat one axis, for models that the analysis refuses.

`Plan.of_experts` and `Plan.of_groups` state the conditions under which such a plan is exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from trainkit._core.paths import named_leaves, same_structure
from trainkit.growth.axes.layouts import COPIES, Layout
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import AxisPlan, GrownAxis, LeafPlan, PlanData, Structure

PyTree = Any


def repeats(
    small_params: PyTree,
    big_params: PyTree,
    *,
    last: str | None = None,
    calibrated: bool = False,
    use: Any = None,
    fused: Mapping[tuple[int, int], Structure] | None = None,
) -> PlanData:
    """The plan that makes m neighbouring copies of each unit of one axis, with factors 1.

    Args:
      small_params, big_params: arrays or shapes.
      last: a regular expression for parameters whose copies may differ if their mean is kept.
      calibrated: whether even gradients of the copies are a guess.
      use: a number for each unit, or gradients of a loss, a tree like `small_params`. The number of
        copies then depends on the use of a unit. `None`: every unit has m copies.
      fused: sizes of an axis -> its factors, where one of several is what grows.

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
        made = {d: _factors((shapes[0][d], shapes[1][d]), fused or {}) for d in grown}
        sizes |= {unit for unit, _ in made.values()}
        reads = last is not None and re.search(last, path) is not None
        split = ((0,) if reads else (),)
        leaves.append(
            LeafPlan(
                path=path,
                small=shapes[0],
                big=shapes[1],
                dtype=str(old.dtype),
                axes=tuple(
                    AxisPlan(made[d][1], splits=split) if d in made else None
                    for d in range(len(shapes[0]))
                ),
                calibrated=(calibrated or use is not None) and bool(grown),
            )
        )
    if len(sizes) != 1 or (use is None and any(m % n for n, m in sizes)):
        multiple = "" if use is not None else ", to a multiple of its size"
        raise GrowthError(
            f"exactly one axis may grow here{multiple}, but these sizes differ: "
            + (", ".join(f"{n} → {m}" for n, m in sorted(sizes)) or "none"),
            params=[leaf.path for leaf in leaves if leaf.small != leaf.big],
            hint="grow other widths by trainkit.growth.plan, before or after",
        )
    ((n, m),) = sizes
    layout: Layout = "repeat"
    if use is not None:
        trees: Any = jax.tree.structure(use), jax.tree.structure(small_params)
        if same_structure(*trees) and not hasattr(use, "shape"):
            use = _utility(named_leaves(use), leaves, n)
        layout = (COPIES, *counts(_checked(use, n), m))
    return PlanData(tuple(leaves), (GrownAxis(n, m, layout, clean=False),))


def _factors(
    sizes: tuple[int, int], fused: Mapping[tuple[int, int], Structure]
) -> tuple[tuple[int, int], Structure]:
    """The sizes of what grows in an axis, and the factors of the axis."""
    structure = fused.get(sizes)
    if structure is None:
        return sizes, ("leaf", 0)
    rest = math.prod(size for kind, size in structure[1:] if kind == "fixed")
    return (sizes[0] // rest, sizes[1] // rest), structure


def counts(use: np.ndarray, total: int) -> tuple[int, ...]:
    """How many copies each unit has: at least one, and `total` in all.

    The largest use of a copy, max use/copies, is as small as possible: each further copy goes to
    the unit whose copies are used most.

    >>> counts(np.array([0.6, 0.1, 0.3]), 7)
    (4, 1, 2)
    """
    found = np.ones(len(use), np.int64)
    for _ in range(total - len(use)):
        found[np.argmax(use / found)] += 1
    return tuple(found.tolist())


def _utility(grads: Mapping[str, Any], leaves: list[LeafPlan], n: int) -> np.ndarray:
    """Σ g² over all parameters of each unit, the router's included."""
    found = np.zeros(n)
    for leaf in leaves:
        g = np.asarray(grads[leaf.path], np.float64)
        if g.shape != leaf.small:
            raise GrowthError(
                f"use: the gradient of {leaf.path} has shape {g.shape}, expected {leaf.small}",
                params=[leaf.path],
                hint="pass jax.grad of a loss at the small model's parameters",
            )
        for d, axis in enumerate(leaf.axes):
            if axis is not None:
                found += np.square(g).sum(tuple(e for e in range(g.ndim) if e != d))
    return found


def _checked(use: Any, n: int) -> np.ndarray:
    """The use of each unit: one finite number ≥ 0."""
    try:
        found = np.asarray(use, np.float64)
    except (TypeError, ValueError):
        found = np.zeros(())
    if found.shape != (n,) or not np.all(np.isfinite(found)) or (found < 0).any():
        shown = str(found.tolist()) if found.ndim == 1 else f"a {type(use).__name__}"
        raise GrowthError(
            f"use is {shown}; it must be {n} finite numbers ≥ 0, one for each expert",
            hint="pass the number of tokens that each expert was chosen for, or gradients: a tree "
            "like the small model's parameters",
        )
    return found
