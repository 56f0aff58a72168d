"""Width: a plan for one joint program, searched for among the layouts that its axes may have."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.growth.analysis.emit import emit_plan
from trainkit.growth.analysis.joint_program import Analysis, JointProgram
from trainkit.growth.analysis.layout_requests import append_units, open_results
from trainkit.growth.analysis.layout_search import choose_layouts
from trainkit.growth.analysis.scales.propagation import propagate
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis
from trainkit.growth.axes.layouts import Layouts
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.program import Program
from trainkit.growth.plan.data import PlanData

ATTEMPTS = 16  # choices of layouts, after which no second way is tried
Tried = tuple[tuple[Axis, Conflict], ...]  # leaves that were laid out otherwise, and why


def solve(joint: JointProgram, layouts: Layouts) -> PlanData | Conflict:
    """The plan under one choice of layouts, or what stands in its way."""
    scales = propagate(joint, layouts)
    return scales if isinstance(scales, Conflict) else emit_plan(scales)


def solve_width(
    analysis: Analysis,
    programs: tuple[Program, Program],
    values: list[Value],
    result_names: Sequence[str],
    append: Sequence[tuple[str, int]] = (),
) -> PlanData | Conflict:
    """The plan between two flat programs of one structure.

    Args:
      analysis: has the rules and the parameters.
      programs: the small and the big one.
      values: what goes into both, parameters first.
      result_names: what messages call the results.
      append: (regular expression, axis) of parameters whose new units are to stand at the end.

    Returns:
      The plan; or why the programs differ in more than sizes, or which axis cannot grow.
    """
    walked = analysis.walk(*programs, values)
    if isinstance(walked, Conflict):
        return walked
    joint = JointProgram(analysis, values, *walked)
    wrong = open_results(joint, result_names) or append_units(analysis, append)
    if wrong is not None:
        return wrong
    layouts = choose_layouts(joint)
    if isinstance(layouts, Conflict):
        return layouts
    return _search(joint, layouts, set(), ())


def _search(
    joint: JointProgram, layouts: Layouts, attempts: set[Layouts], tried: Tried
) -> PlanData | Conflict:
    """Depth first: where a choice of layouts fails, the leaves at fault are laid out otherwise."""
    attempts.add(layouts)
    result = solve(joint, layouts)
    if not isinstance(result, Conflict):
        return result
    failed: Conflict | None = None
    for i, (leaf, name) in enumerate(_otherwise(result.leaves, layouts)):
        # The first way is always tried; with it, what stands in the way in other layers.
        more = _otherwise(result.others, layouts) if not i else []
        changed = layouts.but({**{x.uid: other for x, other in more}, leaf.uid: name})
        if changed in attempts or (i and len(attempts) >= ATTEMPTS):
            continue
        plan = _search(joint, changed, attempts, (*tried, (leaf, result)))
        if not isinstance(plan, Conflict):
            return plan
        failed = failed or plan
    return failed or _final(joint, result, tried)


def _otherwise(leaves: Sequence[Axis], layouts: Layouts) -> list[tuple[Axis, str]]:
    """Layouts that may do where copies are impossible.

    New units that hold nothing are for streams that only root-mean-square norms and parameters
    read, and for products of activations. Where a LayerNorm takes the mean away, new units may hold
    the mean.
    """
    others = []
    for leaf in leaves:
        if layouts[leaf.uid] == "repeat":
            others.append((leaf, "append"))
        elif layouts[leaf.uid] == "append":
            others.append((leaf, "row mean"))
    return others


def _final(joint: JointProgram, last: Conflict, tried: Tried) -> Conflict:
    """What to say where the last of the ways fails."""
    if not tried:
        return last
    leaf, first = next((t for t in tried if t[0] in last.leaves), tried[0])
    if not leaf.big % leaf.small:
        return first  # a multiple, whose new units were asked to copy none
    n, m = leaf.small, leaf.big
    above = m // n + 1
    about = joint.analysis.conflict("", first.kind, [leaf])
    return Conflict(
        f"an axis that grows from {n} to {m}, no multiple, is summed over where no parameter can "
        "be split over its copies (a norm, or a product of activations): units with different "
        f"numbers of copies would count differently. The first equation that shows it:\n"
        f"{first.why}\n"
        "New units that copy none do not do either. They would have to be 0 behind a root mean "
        "square, and hold the mean of the old ones behind a LayerNorm, which sums of what "
        "parameters write can, but no result of another norm or of a non-linear function. The "
        f"equation where that fails:\n{last.why}",
        first.kind,
        axis=f"{n}→{m}",
        params=about.params,
        primitive=first.primitive,
        source=first.source,
        hint=f"grow this axis to a multiple of {n} ({n * above}, {n * (above + 1)}, …), or grow a "
        "hidden width that parameters alone read, which may take any size",
    )
