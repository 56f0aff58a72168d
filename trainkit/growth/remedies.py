"""Remedies: other calls, tried before an error advises them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax

from trainkit._core.paths import path_name
from trainkit.growth.errors import Conflict, GrowthError
from trainkit.growth.plan.data import PlanData

PyTree = Any
Found = PlanData | Conflict
_PLACE = re.compile(r"(.*) \(axis (\d+): (\d+)→(\d+)\)")


def with_larger_axis(
    conflict: Conflict, big_params: PyTree, attempt: Callable[[PyTree], Found]
) -> Conflict:
    """The conflict with a tried hint, if an axis grows to a size that is not a multiple.

    Args:
      conflict: of a width.
      big_params: the shapes of the big model's parameters.
      attempt: plans with other shapes of them.
    """
    places = [_PLACE.fullmatch(name) for name in conflict.params]
    sizes = {(int(p[3]), int(p[4])) for p in places if p is not None}
    if None in places or len(sizes) != 1 or conflict.primitive is None:
        return conflict
    ((n, m),) = sizes
    if not m % n:
        return conflict
    multiple = -(-m // n) * n
    at = {(p[1], int(p[2])) for p in places if p is not None}

    def one(path: tuple[Any, ...], x: Any) -> jax.ShapeDtypeStruct:
        name = path_name(path)
        shape = tuple(multiple if (name, d) in at else k for d, k in enumerate(x.shape))
        return jax.ShapeDtypeStruct(shape, x.dtype)

    try:
        found = attempt(jax.tree_util.tree_map_with_path(one, big_params))
    except GrowthError:
        return conflict  # the function has this size of its own
    if isinstance(found, Conflict):
        if conflict.hint is not None and "multiple" not in conflict.hint:
            return conflict  # says something else
        hint = f"grow another axis ({n} → {multiple} was tried, and is refused too)"
    else:
        hint = (
            f"grow this axis to a multiple of {n} ({multiple}, {multiple + n}, …): {multiple} was "
            "tried, and has a plan"
        )
    return dataclasses.replace(conflict, hint=hint)


def with_copied_layers(conflict: Conflict, attempt: Callable[[str], Found]) -> Conflict:
    """The conflict with a tried hint, if new layers cannot be identities.

    Args:
      conflict: of an alignment of layers.
      attempt: plans with another operator for depth.
    """
    if conflict.hint is None or "how=" not in conflict.hint:
        return conflict
    for how in ("stack", "interpose"):
        if not isinstance(attempt(how), Conflict):
            hint = f"{conflict.hint}. how={how!r} was tried, and has a plan"
            return dataclasses.replace(conflict, hint=hint)
    return conflict
