"""Width: the search for layouts under which a joint program has a plan."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.growth.analysis import input_places
from trainkit.growth.analysis.emit import emit_plan
from trainkit.growth.analysis.joint_program import Analysis, JointProgram
from trainkit.growth.analysis.layout_requests import request_appended_units, request_result_layouts
from trainkit.growth.analysis.layout_search import OLD_FIRST, choose_layouts
from trainkit.growth.analysis.scales.propagation import propagate
from trainkit.growth.analysis.values import Renamed, Value
from trainkit.growth.axes.axis import Axis
from trainkit.growth.axes.layouts import Layouts
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.program import Program
from trainkit.growth.plan.data import PlanData

ATTEMPTS = 16  # after this many choices of layouts, only the first alternative is tried
Tried = tuple[tuple[Axis, Conflict], ...]  # leaves whose layout was changed, and why


def solve(joint: JointProgram, layouts: Layouts) -> PlanData | Conflict:
    """The plan under one choice of layouts, or a conflict."""
    scales = propagate(joint, layouts)
    return scales if isinstance(scales, Conflict) else emit_plan(scales)


def solve_width(
    analysis: Analysis,
    programs: tuple[Program, Program],
    values: list[Value],
    result_names: Sequence[str],
    append: Sequence[tuple[str, int]] = (),
) -> PlanData | Conflict:
    """The plan between two flat programs with the same equations.

    Args:
      analysis: has the rules and the parameters.
      programs: the small and the big one.
      values: the arguments of both, parameters first.
      result_names: names of the results, for messages.
      append: (regular expression, axis) of parameters that get padding units at the end.

    Returns:
      The plan; or a conflict: the programs differ in more than sizes, or an axis cannot grow.
    """
    for value, of in zip(values[len(analysis.params) :], analysis.inputs, strict=False):
        value.choice = None if of.symbols is None else Renamed(of.symbols)
    joined = analysis.join(*programs, values)
    if isinstance(joined, Conflict):
        return joined
    joint = JointProgram(analysis, values, *joined)
    wrong = input_places.request_places(joint, result_names)
    summed = None if wrong else request_result_layouts(joint, result_names)
    wrong = wrong or request_appended_units(analysis, append)
    if wrong is not None:
        return wrong
    found = _first_plan(joint)
    return summed if summed is not None and isinstance(found, Conflict) else found


def _first_plan(joint: JointProgram) -> PlanData | Conflict:
    """The plan under the first layouts that have one, or the likeliest conflict."""
    layouts = choose_layouts(joint)
    if isinstance(layouts, Conflict):
        old_first = choose_layouts(joint, OLD_FIRST)
        tried = (
            old_first if isinstance(old_first, Conflict) else _search(joint, old_first, set(), ())
        )
        return layouts if isinstance(tried, Conflict) else tried
    found = _search(joint, layouts, set(), ())
    return input_places.about_inputs(joint, found) if isinstance(found, Conflict) else found


def _search(
    joint: JointProgram, layouts: Layouts, attempts: set[Layouts], tried: Tried
) -> PlanData | Conflict:
    """Depth-first search: if layouts fail, tries other layouts for the leaves of the conflict."""
    attempts.add(layouts)
    result = solve(joint, layouts)
    if not isinstance(result, Conflict):
        return result
    failed: Conflict | None = None
    for i, (leaf, name) in enumerate(_alternatives(result.leaves, layouts)):
        # The first alternative is always tried, and resolves conflicts in other layers too.
        more = _alternatives(result.others, layouts) if not i else []
        changed = layouts.but({**{x.uid: other for x, other in more}, leaf.uid: name})
        if changed in attempts or (i and len(attempts) >= ATTEMPTS):
            continue
        plan = _search(joint, changed, attempts, (*tried, (leaf, result)))
        if not isinstance(plan, Conflict):
            return plan
        failed = failed or plan
    for leaf, name in _alternatives(result.nearby, layouts):
        changed = layouts.but({leaf.uid: name})
        if changed not in attempts and len(attempts) < ATTEMPTS:
            plan = _search(joint, changed, attempts, tried)
            if not isinstance(plan, Conflict):
                return plan
    return failed or _final_conflict(joint, result, tried)


def _alternatives(leaves: Sequence[Axis], layouts: Layouts) -> list[tuple[Axis, str]]:
    """Layouts to try if copies are impossible.

    Padding units that are 0 work for streams whose consumers are parameters and root-mean-square
    norms, and for products of activations. Padding units that hold the mean work behind a
    LayerNorm, which subtracts the mean.
    """
    others = []
    for leaf in leaves:
        if not leaf.small:
            continue  # the result of a new layer has no old units to copy
        if layouts[leaf.uid] == "repeat":
            others.append((leaf, "append"))
        elif layouts[leaf.uid] == "append":
            others.append((leaf, "row mean"))
    return others


def _final_conflict(joint: JointProgram, last: Conflict, tried: Tried) -> Conflict:
    """The conflict to report after all alternatives failed."""
    if not tried:
        return last
    leaf, first = next((t for t in tried if t[0] in last.leaves), tried[0])
    if not leaf.small:
        return first
    if not leaf.big % leaf.small:
        return first  # a multiple, for which padding units were requested
    n, m = leaf.small, leaf.big
    above = m // n + 1
    about = joint.analysis.conflict("", first.kind, [leaf])
    first_line, _, details = first.why.partition("\n")
    other = "" if last.why == first.why else f"\n  without copies: {last.why}"
    return Conflict(
        f"{m} is not a multiple of {n}, and {first_line}. Units with more copies would count "
        "more, and new units that copy none are impossible too (behind a norm they would have to "
        f"be 0, or the mean of the old units)\n{details}{other}",
        first.kind,
        axis=f"{n}→{m}",
        params=about.params,
        primitive=first.primitive,
        source=first.source,
        hint=f"grow this axis to a multiple of {n} ({n * above}, {n * (above + 1)}, …), or grow a "
        "hidden width that is contracted with parameters alone, which may take any size",
    )
