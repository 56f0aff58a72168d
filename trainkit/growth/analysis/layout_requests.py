"""Layouts that the user requests: for results that grow, and for parameters in `append=`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainkit.growth.analysis.joint_program import Analysis, JointProgram, all_pairs
from trainkit.growth.axes.axis import find, segments
from trainkit.growth.axes.layouts import COPIES
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.primitives import summed


def request_result_layouts(joint: JointProgram, names: Sequence[str]) -> Conflict | None:
    """Requests "append" for axes of results that grow: new entries follow the old ones.

    Where the model sums over such an axis, the new entries have to be the mean of the old ones,
    as the advantages of more actions, from which their mean is taken.

    Returns:
      `None`, or the conflict that there is if that is not possible either.
    """
    taken = {
        leaf.uid
        for axis, layout, _ in joint.analysis.forced
        if isinstance(layout, tuple) and layout[:1] != (COPIES,)
        for leaf in grown_leaves(axis)
    }
    grown = [
        (f"result{name} grows: shape {out.small} → {out.big}, at axis {d}", axis)
        for name, out in zip(names, joint.outs, strict=True)
        for d, axis in enumerate(out.axes)
        if not find(axis).fixed
    ]
    contracted = _summed(joint) - taken if grown else set()
    wrong: Conflict | None = None
    for text, axis in grown:
        summed = any(leaf.uid in contracted for leaf in grown_leaves(axis))
        if summed:
            wrong = wrong or joint.analysis.conflict(
                f"{text}, and the model sums over that axis",
                "axes",
                (axis,),
                hint="return outputs that are the same in both models, such as logits or a loss",
            )
        if not any(leaf.uid in taken for leaf in grown_leaves(axis)):
            joint.analysis.force(axis, "row mean" if summed else "append")
    return wrong


def _summed(joint: JointProgram) -> set[int]:
    """Uids of the axis leaves that some equation sums over."""
    result: set[int] = set()
    for pair in all_pairs(joint.pairs):
        result |= {leaf.uid for d in summed(pair, 0) for leaf in grown_leaves(pair.ins[0].axes[d])}
    return result


def visible(joint: JointProgram) -> set[int]:
    """Uids of the axes of results that grow."""
    return {find(a).uid for out in joint.outs for a in out.axes if not find(a).fixed}


def request_appended_units(
    analysis: Analysis, wanted: Sequence[tuple[str, int]]
) -> Conflict | None:
    """Requests "append" for axes of parameters: padding units at the end.

    Args:
      analysis: after joining, so that axes are unified.
      wanted: pairs (regular expression for paths, axis).

    Returns:
      `None`, or the conflict of a pair that matches no axis that grows.

    Raises:
      ValueError: `wanted` has another form.
    """
    for one in wanted:
        if isinstance(one, str) or len(one) != 2 or not isinstance(one[0], str):
            raise ValueError(
                f"append={wanted!r} must be a list of pairs (pattern, axis), as [('embed', 0)]"
            )
        pattern, d = one
        named = [(path, v) for path, v in analysis.params if re.search(pattern, path)]
        grows = [v for _, v in named if -len(v.axes) <= d < len(v.axes) and not v.axes[d].fixed]
        if not grows:
            return Conflict(
                f"append=({pattern!r}, {d}) names no axis that grows",
                "layouts",
                params=tuple(path for path, _ in named or analysis.params),
                hint="pass a regular expression for the path of a parameter, and the number of one "
                "of its axes that is larger in the big model",
            )
        for value in grows:
            for segment in segments(value.axes[d]):  # of a fused axis, each by itself
                if not segment.fixed:
                    analysis.force(segment, "append")
    return None
