"""Plans that repeat one axis as it is, where the programs of the two models are too different for
an analysis of both together: the condition under which they are exact stands with each."""

from __future__ import annotations

import re
from typing import Any

from trainkit._core.paths import named_leaves
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import AxisPlan, GrownAxis, LeafPlan, Plan

PyTree = Any


def more_groups(small_params: PyTree, big_params: PyTree) -> Plan:
    """The plan by which key and value heads become m times as many for the same query heads.

    Exact where query head i of H reads key head i // (H / G), as grouped queries do: each key head
    is repeated, and each copy serves a part of the queries that the old one served. The copies'
    gradients therefore differ and only sum to the old one; moments are a best guess, the even one.
    To grow queries and groups together use `trainkit.growth.plan`.

    Args:
      small_params, big_params: arrays or shapes; where they differ, they differ in the axis of the
        key and value heads alone.

    Raises:
      GrowthError: other leaves, an axis that is no multiple, or two different ratios.

    >>> import jax.numpy as jnp
    >>> small, big = {"k": jnp.array([[1.0], [2.0]])}, {"k": jnp.zeros((4, 1))}
    >>> more_groups(small, big).grow(small, symmetry="even")["k"].ravel()
    Array([1., 1., 2., 2.], dtype=float32)
    """
    return repeats(small_params, big_params, calibrated=True)


def repeats(
    small_params: PyTree, big_params: PyTree, *, last: str | None = None, calibrated: bool = False
) -> Plan:
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
            "experts.from_dense",
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
    return Plan(tuple(leaves), (GrownAxis(n, m, "repeat", clean=False),))
