"""Helpers for operands that are indices from `top_k`."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.analysis.values import Match, Pick, Value, leaf_of
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.queries import grown_leaves

HINT = (
    "choose by top_k, and use its indices in one_hot, indexing, take_along_axis or a scatter into "
    "the axis they come from, or do not grow that axis (experts). If you know that copies are "
    "treated alike, use trainkit.growth.Plan.of_experts"
)


def numbers(value: Value, axis: Axis) -> int | None:
    """The dimension along which a constant is 0, 1, 2, … over the units of an axis, or `None`."""
    if value.const is None:
        return None
    axis = find(axis)
    for d, size in enumerate(zip(value.small, value.big, strict=True)):
        if size != (axis.small, axis.big):
            continue
        ahead = [-1 if e == d else 1 for e in range(len(value.axes))]
        counted = (np.arange(c.shape[d]).reshape(ahead) for c in value.const)
        if all(
            c.core_shape[d] == c.shape[d]
            and np.array_equal(c.core, np.broadcast_to(n, c.core_shape))
            for c, n in zip(value.const, counted, strict=True)
        ):
            return d
    return None


def moved(pair: EquationPair, d: int, axis: Axis) -> int:
    """The dimension of the result that dimension d of the operand becomes."""
    rank = len(pair.ins[0].axes)
    if pair.name == "transpose":
        return list(pair.params["permutation"]).index(d)
    if pair.name == "broadcast_in_dim":
        return int(pair.params["broadcast_dimensions"][d])
    if pair.name == "squeeze":
        return d - sum(e % rank < d for e in pair.params["dimensions"])
    if pair.name == "reshape":
        (group,) = [g for g in pair.notes["groups"] if d in g.src]
        leaf = leaf_of(axis)
        return next(o for o in group.out if leaf in grown_leaves(pair.outs[0].axes[o]))
    return d


def refuse(pair: EquationPair) -> NoReturn:
    axes = [
        v.choice.into if isinstance(v.choice, Pick) else v.choice.axes[1]
        for v in pair.ins
        if isinstance(v.choice, Pick | Match)
    ]
    pair.fail(
        f"`{pair.name}` uses indices of chosen entries of an axis that grows. Each entry has "
        "several copies with different indices, and the result may differ between them",
        axes=axes,
        hint=HINT,
    )
