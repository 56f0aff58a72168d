"""Remedies: other calls, tried before an error advises them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from trainkit._core.paths import path_name
from trainkit.growth.depth.flat_model import FlatModel
from trainkit.growth.errors import Conflict, GrowthError
from trainkit.growth.ir.dataflow import flat_bodies
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
        if conflict.hint is not None and (conflict.kind == "axes" or found.hint == conflict.hint):
            return conflict  # what the operation cannot do at any size, and what to do instead
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


def with_layers_of_while_loops(conflict: Conflict, model: FlatModel) -> Conflict:
    """The conflict in other words, if its axes are layers that a `while_loop` picks by number."""
    picked = set(_picked(model))
    places = [_PLACE.fullmatch(name) for name in conflict.params]
    if not places or not all(p and p[2] == "0" and p[1] in picked for p in places):
        return conflict
    return dataclasses.replace(
        conflict,
        why="a `while_loop` picks layers of it by number, and it is not known how often the loop "
        "runs, so nothing can be said about new layers",
        primitive="while",
        hint="use jax.lax.fori_loop(0, layers, …) or jax.lax.scan over the layers: then new layers "
        "can be identities",
    )


def _picked(model: FlatModel) -> Iterator[str]:
    """The parameters that a `while_loop` indexes along their first axis."""
    names = dict(zip(map(id, model.program.ins), model.shapes, strict=False))
    for loop in model.program.equations:
        if loop.name != "while":
            continue
        body = flat_bodies(loop)[1]
        first = loop.params["cond_nconsts"]
        inside = dict(zip(map(id, body.ins), loop.ins[first:], strict=True))
        for eqn in body.equations:
            outer = inside.get(id(eqn.ins[0])) if eqn.ins else None
            if eqn.name in ("gather", "dynamic_slice") and id(outer) in names:
                yield names[id(outer)]
