"""Conflicts between the two programs: their axes, their parameters, and where they arose.

A rule refuses an equation by raising `Refused`, which keeps rules simple. `catch_refusal` catches
it around each equation and returns a `Conflict`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from trainkit.growth.axes.axis import Axis, find, show
from trainkit.growth.axes.queries import grown_leaves, leaves
from trainkit.growth.errors import Conflict, Kind
from trainkit.growth.ir.program import Equation
from trainkit.growth.ir.source_lines import describe, where

P = ParamSpec("P")
T = TypeVar("T")

# A parameter's path, and its axes.
Param = tuple[str, Sequence[Axis]]


class Refused(Exception):
    """A rule refuses an equation. This exception never leaves the analysis."""

    def __init__(self, conflict: Conflict):
        super().__init__(conflict.why)
        self.conflict = conflict


def catch_refusal(
    kind: Kind, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T | Conflict:
    """The result of `fn`, or the conflict that it raises as `Refused`, with this `kind`."""
    try:
        return fn(*args, **kwargs)
    except Refused as refused:
        return dataclasses.replace(refused.conflict, kind=kind)


def conflict_between(
    params: Sequence[Param],
    why: str,
    kind: Kind,
    *,
    axes: Sequence[Axis] = (),
    equation: Equation | None = None,
    other: Equation | None = None,
    hint: str | None = None,
    remedy: str | None = None,
) -> Conflict:
    """A conflict about axes, at an equation of the small program and its partner in the big one."""
    about, paths = axes, paths_of(params, axes)
    if not paths:  # no parameter has such an axis, so name all axes that grow
        every = [a for _, own in params for a in own if not find(a).fixed]
        paths, axes = paths_of(params, every), axes or every
    if equation is not None:
        why += f"\n  small:      {describe(equation)}"
        if other is not None:
            why += f"\n  big:        {describe(other)}"
    return Conflict(
        why,
        kind,
        axis=" and ".join(dict.fromkeys(show(a) for a in axes)) or None,
        params=tuple(paths),
        primitive=equation.name if equation is not None else None,
        source=where(equation) if equation is not None else None,
        hint=hint,
        remedy=remedy,
        leaves=tuple(leaf for a in about for leaf in grown_leaves(a)),
    )


def paths_of(params: Sequence[Param], axes: Sequence[Axis]) -> list[str]:
    """The parameter axes that share a grown leaf with `axes`."""
    wanted = {leaf.uid for a in axes for leaf in leaves(a)}
    grown = {leaf.uid for a in axes for leaf in grown_leaves(a)}
    wanted = grown or wanted
    return [
        f"{path} (axis {d}: {show(axis)})"
        for path, own in params
        for d, axis in enumerate(own)
        if wanted & {leaf.uid for leaf in leaves(axis)}
    ]


def difference(i: int, s: Equation | None, b: Equation | None, why: str) -> Conflict:
    """The conflict of the first equations that differ."""
    there = s or b
    assert there is not None, "at least one of the programs has this equation"
    return Conflict(
        "the two functions are not the same model at two sizes; the first difference, at equation "
        f"{i}: {why}\n"
        f"  small:      {describe(s) if s else 'ends here'}\n"
        f"  big:        {describe(b) if b else 'ends here'}",
        "programs",
        primitive=there.name,
        source=where(there),
        hint="build both models from one definition, with different sizes alone (the same options, "
        "and no branches that depend on a size)",
    )
