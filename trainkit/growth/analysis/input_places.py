"""Places that the user requests for the old entries of inputs and results, and what a plan says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from trainkit.growth.analysis.joint_program import JointProgram
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import known_map
from trainkit.growth.axes.queries import coordinates, grown_leaves, source_map
from trainkit.growth.axes.structures import structure_of
from trainkit.growth.errors import Conflict
from trainkit.growth.plan.data import AxisPlan, LeafPlan
from trainkit.growth.plan.inputs import Places, places_of

_PARTIAL = ("div", "rsqrt", "log", "log1p", "pow", "integer_pow", "rem", "acosh", "atanh")


def request_places(joint: JointProgram, results: Sequence[str]) -> Conflict | None:
    """Requests layouts for the axes of inputs that grow, and of results with places.

    Args:
      joint: after joining, so that axes are unified.
      results: names of the results, without "result".

    Returns:
      `None`, or the conflict of an axis whose parts in the model do not follow the map.

    Raises:
      ValueError: a map names no result, or is no map of its axis.
    """
    analysis = joint.analysis
    wanted = [
        (f"input {of.name}", value, of.places) for value, of in zip(*_inputs(joint), strict=False)
    ]
    named = [(f"result{name}", out) for name, out in zip(results, joint.outs, strict=True)]
    asked = {key for key, _ in analysis.new.places} - {of.name for of in analysis.inputs}
    if unknown := sorted(asked - {name for name, _ in named}):
        some = ", ".join(repr(name) for name, _ in named)
        raise ValueError(f"NewInputs: places names {unknown[0]!r}. The results are {some}")
    wanted += [(name, v, places_of(name, v.small, v.big, analysis.new)) for name, v in named]
    for name, value, places in wanted:
        for d, at in places.items():
            found = leaf_places(value.axes[d], at)
            if isinstance(found, Conflict):
                return analysis.conflict(
                    f"axis {d} of {name} is made of several parts in the model, and {found.why}",
                    "layouts",
                    [value.axes[d]],
                    hint=f"give NewInputs(places={{({name.split()[-1]!r}, {d}): …}}) a map that "
                    f"keeps every entry in its part, such as {_fitting(value.axes[d])}",
                )
            for leaf, layout in found:
                analysis.force(leaf, layout)
    return None


def about_inputs(joint: JointProgram, conflict: Conflict) -> Conflict:
    """The conflict with the hint for an axis of inputs, if it is about one."""
    inputs = {
        leaf.uid
        for value, _ in zip(*_inputs(joint), strict=False)
        for axis in value.axes
        for leaf in grown_leaves(axis)
    }
    if not any(find(leaf).uid in inputs for leaf in conflict.leaves):
        return conflict
    hint = (
        "this depends on all entries of an input, and new ones would change it for the old: take "
        "norms, means and softmaxes over the old entries alone, pass new entries as an argument of "
        "their own and concatenate after the norm, or read all by a matrix first"
    )
    if conflict.primitive in _PARTIAL:
        hint = (
            "it may be infinite or undefined at new entries, and 0 times that is no number: bound "
            "what it takes, as in jnp.maximum(variance, 0) + 1e-6, or scale the inputs beforehand"
        )
    return dataclasses.replace(conflict, hint=hint)


def leaf_places(axis: Axis, places: Places) -> list[tuple[Axis, Places]] | Conflict:
    """The map of each leaf of an axis, if together they are `places`; else why there are none."""
    axis = find(axis)
    found: list[tuple[Axis, Places]] = []
    maps: dict[int, np.ndarray] = {}
    for leaf in grown_leaves(axis):
        own = np.full(leaf.small, -1)
        each = (coordinates(axis, leaf, of_big=big) for big in (False, True))
        for old, new in zip(*each, strict=True):
            for i, place in enumerate(places):
                if old[i] >= 0:
                    own[old[i]] = new[place]
        if (own < 0).any() or len(set(own)) < len(own):
            i = int(np.flatnonzero(own < 0)[0]) if (own < 0).any() else 0
            return Conflict(f"old entry {i} of a part would leave it", "layouts")
        found.append((leaf, tuple(own.tolist())))
        maps[leaf.uid] = known_map(found[-1][1], leaf.small, leaf.big)
    wanted = known_map(places, axis.small, axis.big)
    if not np.array_equal(source_map(axis, lambda leaf: maps[find(leaf).uid]), wanted):
        return Conflict("the map moves entries between the parts", "layouts")
    return found


def _fitting(axis: Axis) -> str:
    """The map that puts the old entries of every part first."""
    source = source_map(axis, lambda leaf: known_map("append", leaf.small, leaf.big))
    places = {int(old): j for j, old in enumerate(source) if old >= 0}
    return str(tuple(places[i] for i in range(len(places))))


def _inputs(joint: JointProgram) -> tuple[list[Value], Sequence]:
    return joint.values[len(joint.analysis.params) :], joint.analysis.inputs


def planned(
    joint: JointProgram, layout: Callable[[Axis], object], number: Callable[[Axis], int]
) -> tuple[tuple[LeafPlan, ...], tuple[LeafPlan, ...]]:
    """How inputs grow, and results whose old entries have places of their own."""
    inputs = [
        _plan(of.name, value, number)
        for value, of in zip(*_inputs(joint), strict=False)
        if value.small != value.big
    ]
    results = [
        _plan(str(i), out, number)
        for i, out in enumerate(joint.outs)
        if any(isinstance(layout(x), tuple) for axis in out.axes for x in grown_leaves(axis))
    ]
    return tuple(inputs), tuple(results)


def _plan(name: str, value: Value, number: Callable[[Axis], int]) -> LeafPlan:
    axes = (
        None if find(axis).fixed else AxisPlan(structure_of(axis, number)) for axis in value.axes
    )
    return LeafPlan(name, value.small, value.big, str(value.dtype), tuple(axes))
