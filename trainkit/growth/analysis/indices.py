"""What is chosen along an axis that grows: indices into it, and what compares two such indices.

Of an axis whose units have m copies side by side, `top_k` with m·k for k takes every chosen unit
with all its copies, in their order: entry j·m + r of the result is copy r of what entry j was. Its
indices are no copies of the small ones (m·i + r for i), and yet whatever is picked by them is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.reading import grown_leaves

if TYPE_CHECKING:
    from trainkit.growth.analysis.joint_program import EquationPair, Value

HINT = (
    "choose by top_k, and read its indices by one_hot, by indexing, take_along_axis or a scatter "
    "into the axis they come from; or keep that axis (experts) as it is. Where copies are known to "
    "be treated alike: trainkit.growth.Plan.of_experts"
)


class Pick(NamedTuple):
    """V′[J] = m·v[π(J)] + r, with r the number of J's copy along one dimension.

    Attributes:
      into: the axis that is indexed.
      along: the axis whose copies pick the copies, and
      dim: the dimension it is in.
      inside: whether 0 ≤ v < n is known.
      part: (dimension, place) where this is one part of an index that has several.
    """

    into: Axis
    along: Axis
    dim: int
    inside: bool = True
    part: tuple[int, int] | None = None


class Match(NamedTuple):
    """V′[J] = v[π(J)] where J's copies along two dimensions have the same number.

    Attributes:
      dims, axes: the two dimensions, and the axes in them.
      tight: whether it is 0 everywhere else; otherwise it is unknown there.
      counts: whether no element is negative.
    """

    dims: tuple[int, int]
    axes: tuple[Axis, Axis]
    tight: bool
    counts: bool = False


def leaf_of(axis: Axis) -> Axis:
    """The one grown leaf of an axis of choices."""
    (leaf,) = grown_leaves(axis)
    return leaf


def numbers(value: Value, axis: Axis) -> int | None:
    """The dimension along which a constant counts 0, 1, 2, … the units of an axis."""
    if value.const is None:
        return None
    axis = find(axis)
    for d, size in enumerate(zip(value.small, value.big, strict=True)):
        if size != (axis.small, axis.big):
            continue
        ahead = [-1 if e == d else 1 for e in range(len(value.axes))]
        counted = (np.arange(c.shape[d]).reshape(ahead) for c in value.const)
        if all(
            np.array_equal(c.value, np.broadcast_to(n, c.shape))
            for c, n in zip(value.const, counted, strict=True)
        ):
            return d
    return None


def moved(pair: EquationPair, d: int, axis: Axis) -> int:
    """Where an equation puts a dimension of its operand, which grows by one leaf of `axis`."""
    rank = len(pair.ins[0].axes), len(pair.outs[0].axes)
    if pair.name == "transpose":
        return list(pair.params["permutation"]).index(d)
    if pair.name == "broadcast_in_dim":
        return int(pair.params["broadcast_dimensions"][d])
    if pair.name == "squeeze":
        return d - sum(e % rank[0] < d for e in pair.params["dimensions"])
    if pair.name == "expand_dims":
        new = [e % rank[1] for e in pair.params["dimensions"]]
        return [e for e in range(rank[1]) if e not in new][d]
    if pair.name == "reshape":
        (group,) = [g for g in pair.notes["groups"] if d in g.src]
        leaf = leaf_of(axis)
        return next(o for o in group.out if leaf in grown_leaves(pair.outs[0].axes[o]))
    return d


def refuse(pair: EquationPair) -> NoReturn:
    axes = [
        v.choice.into if isinstance(v.choice, Pick) else v.choice.axes[1]
        for v in pair.ins
        if v.choice is not None
    ]
    pair.fail(
        f"`{pair.name}` reads which entries of an axis that grows were chosen; each is there "
        "several times, and what this makes of their numbers is not known to be the same",
        axes=axes,
        hint=HINT,
    )
