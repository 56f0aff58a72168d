"""Width: two programs of one structure walked in lockstep, until a map for every axis holds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from trainkit.growth.analysis.emit import emit
from trainkit.growth.analysis.joint_program import Analysis, EquationPair, Value
from trainkit.growth.analysis.layout_search import (
    all_pairs,
    choose_layouts,
    compare,
    refuse_constant,
    rounding,
)
from trainkit.growth.analysis.scales import ScalePropagation
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import PADDED, appended
from trainkit.growth.axes.reading import grown_leaves
from trainkit.growth.errors import GrowthError
from trainkit.growth.ir.program import Program, scan_counts
from trainkit.growth.plan.data import PlanData

PyTree = Any
ATTEMPTS = 16  # combinations of layouts, after which no second way is tried


def widen(
    analysis: Analysis,
    small: Program,
    big: Program,
    values: list[Value],
    out_tree: PyTree,
    append: Sequence[tuple[str, int]],
) -> PlanData:
    """The plan between two flat programs; `values` are their arguments, parameters first.

    Raises:
      GrowthError: the programs differ in more than sizes, or an axis cannot grow.
    """
    pairs, outs = analysis.walk(small, big, values)
    visible = _open_outputs(analysis, outs, out_tree)
    _check_outputs(analysis, pairs, visible)
    _append(analysis, append)
    layouts = choose_layouts(analysis, [*values, *outs], pairs)
    seen_outside = {find(axis).uid for _, axis in visible}
    attempts: set[frozenset[tuple[int, str]]] = set()

    def attempt(layouts: dict[int, str], tried: list[tuple[Axis, GrowthError]]) -> PlanData:
        attempts.add(frozenset(layouts.items()))
        try:
            scales = _run(analysis, values, pairs, outs, layouts)
            return emit(analysis, scales, layouts, seen_outside)
        except GrowthError as error:
            failed: GrowthError | None = None
            for i, (leaf, layout) in enumerate(_otherwise(error.leaves, layouts)):
                # The first way is always tried; with it, what stands in the way in other layers.
                more = _otherwise(error.others, layouts) if not i else []
                changed = {**layouts, **{x.uid: name for x, name in more}, leaf.uid: layout}
                if frozenset(changed.items()) in attempts or (i and len(attempts) >= ATTEMPTS):
                    continue
                before = {x: x.source for x in (leaf, *(x for x, _ in more))}
                for x in before:
                    x.source = appended(x.small, x.big)
                try:
                    return attempt(changed, [*tried, (leaf, error)])
                except GrowthError as last:
                    failed = failed or last
                    for x, source in before.items():
                        x.source = source
            if failed is not None:
                raise failed from error
            if not tried:
                raise
            at_fault = [t for t in tried if t[0] in error.leaves] or tried
            leaf, first = at_fault[0]
            if not leaf.big % leaf.small:
                raise first from error  # a multiple, whose new units were asked to copy none
            raise _no_multiple(analysis, leaf, first, error) from error

    return attempt(layouts, [])


def _otherwise(leaves: Sequence[Axis], layouts: dict[int, str]) -> list[tuple[Axis, str]]:
    """Layouts that may do where units with unequal numbers of copies are impossible.

    New units that hold nothing are for streams that only root-mean-square norms and parameters
    read. Where a LayerNorm takes the mean away, new units may hold the mean.
    """
    found = []
    for leaf in leaves:
        if leaf.big % leaf.small and layouts[leaf.uid] == "repeat":
            found.append((leaf, "append"))
        elif layouts[leaf.uid] == "append":
            found.append((leaf, "row mean"))
    return found


def _no_multiple(
    analysis: Analysis, leaf: Axis, error: GrowthError, last: GrowthError
) -> GrowthError:
    n, m = leaf.small, leaf.big
    above = m // n + 1
    return GrowthError(
        f"an axis that grows from {n} to {m}, no multiple, is summed over where no parameter can "
        "be split over its copies (a norm, or a product of activations): units with different "
        f"numbers of copies would count differently. The first equation that shows it:\n"
        f"{error.reason}\n"
        "New units that copy none do not do either. They would have to be 0 behind a root mean "
        "square, and hold the mean of the old ones behind a LayerNorm, which sums of what "
        "parameters write can, but no result of another norm or of a non-linear function. The "
        f"equation where that fails:\n{last.reason}",
        axis=f"{n}→{m}",
        params=analysis.paths([leaf]),
        primitive=error.primitive,
        source=error.source,
        hint=f"grow this axis to a multiple of {n} ({n * above}, {n * (above + 1)}, …), or grow a "
        "hidden width that parameters alone read, which may take any size",
    )


def _append(analysis: Analysis, wanted: Sequence[tuple[str, int]]) -> None:
    for one in wanted:
        if isinstance(one, str) or len(one) != 2 or not isinstance(one[0], str):
            raise ValueError(
                f"append={wanted!r} must be a list of pairs (pattern, axis), as [('embed', 0)]"
            )
        pattern, d = one
        found = [(path, v) for path, v in analysis.params if re.search(pattern, path)]
        grows = [v for _, v in found if -len(v.axes) <= d < len(v.axes) and not v.axes[d].fixed]
        if not grows:
            raise GrowthError(
                f"append=({pattern!r}, {d}) names no axis that grows",
                params=[path for path, _ in found] or [path for path, _ in analysis.params],
                hint="give a regular expression for the path of a parameter and the number of one "
                "of its axes that is larger in the big model",
            )
        for value in grows:
            analysis.force(value.axes[d], "append")


def _open_outputs(analysis: Analysis, outs: list[Value], out_tree: PyTree):
    """The axes of results that grow, with a text that says which: new entries go to their end."""
    found = []
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(out_tree)]
    for path, out in zip(paths, outs, strict=True):
        for d, axis in enumerate(out.axes):
            if not find(axis).fixed:
                analysis.force(axis, "append")
                found.append(
                    (f"result{path} grows: shape {out.small} → {out.big}, at axis {d}", axis)
                )
    return found


def _check_outputs(analysis: Analysis, pairs: list[EquationPair], visible) -> None:
    """A result may grow by new entries behind the old ones, not by the units of the model."""
    summed = set()
    for pair in all_pairs(pairs) if visible else ():
        gone: Sequence[int] = ()
        if pair.name == "dot_general":
            gone = pair.params["dimension_numbers"][0][0]
        elif pair.name == "conv_general_dilated":
            gone = (pair.params["dimension_numbers"].lhs_spec[1],)
        elif pair.name.startswith("reduce_"):
            gone = pair.params.get("axes", ())
        summed |= {leaf.uid for d in gone for leaf in grown_leaves(pair.ins[0].axes[d])}
    for text, axis in visible:
        if any(leaf.uid in summed for leaf in grown_leaves(axis)):
            analysis.fail(
                f"{text}, and the model sums over that axis",
                axes=(axis,),
                hint="growth keeps the function: return what both models share: logits, or a loss",
            )


def _run(analysis, values, pairs: list[EquationPair], outs, layouts) -> ScalePropagation:
    scales = fresh_scales(analysis, values, pairs, outs, layouts)
    for i, value in enumerate(values):
        if i < len(analysis.params):
            scales.parameter(value)
            if not jax.dtypes.issubdtype(value.dtype, np.inexact):
                for expr in value.scale.flat:
                    scales.system.require_zero(expr)
        else:
            scales.plain(value)
    scales.run(pairs)
    for i, out in enumerate(outs):
        scales.read(out)
        for expr in out.scale.flat:
            if expr is not None and scales.system.require_zero(expr):
                producer = scales.producers.get(id(out), pairs[-1] if pairs else None)
                analysis.fail(
                    f"result {i} would change by a factor, and no scaling of the parameters "
                    "mends it",
                    axes=scales.grown_before(producer) if producer is not None else out.axes,
                    equation=producer.small if producer is not None else None,
                    hint="let a parameter read the axis that is summed over, or use a mean there",
                )
    return scales


def fresh_scales(
    analysis: Analysis,
    values: list[Value],
    pairs: list[EquationPair],
    outs: list[Value],
    layouts: dict[int, str],
) -> ScalePropagation:
    """Scale propagation before its first equation: how many copies each layout makes, and which
    constants fit."""
    factors: dict[int, float | None] = {}
    every = [*values, *outs]
    for pair in all_pairs(pairs):
        every += [*pair.ins, *pair.outs]
        every += [v for body in pair.bodies for v in (*body.ins, *body.outs)]
    for v in every:
        for axis in v.axes:
            for leaf in grown_leaves(axis):
                if layouts[leaf.uid] in PADDED:
                    factors[leaf.uid] = 0.0
                elif leaf.big % leaf.small:
                    factors[leaf.uid] = None
                else:
                    factors[leaf.uid] = math.log(leaf.big // leaf.small)
    padded = frozenset(uid for uid in factors if layouts[uid] in PADDED)
    for v in every:
        if v.const is not None:
            v.scale = None  # what an earlier attempt found
    rows = frozenset(uid for uid in factors if layouts[uid] == "row mean")
    scales = ScalePropagation(analysis, factors, padded, rows)
    users = {id(v): j for j in all_pairs(pairs) for v in j.ins}

    def read_constant(v: Value) -> np.ndarray:
        found = compare(v)
        if found is None:
            refuse_constant(analysis, v, users.get(id(v), pairs[-1]))
        if any(e for e in found.flat):
            # Ratios of constants are known no better than the constants.
            scales.system.tolerance = max(scales.system.tolerance, 4 * rounding(v))
        return found

    scales.read_constant = read_constant
    scales.shiftable = shiftable(analysis, pairs, values)
    return scales


_FORWARD = {
    "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type",
    "stop_gradient",
}  # fmt: skip


def shiftable(
    analysis: Analysis, pairs: list[EquationPair], values: list[Value]
) -> dict[int, float]:
    """Parameters of which every use is `w + s` with one constant s."""
    origin = {id(v): i for i, v in enumerate(values[: len(analysis.params)])}
    shifts: dict[int, set[float | None]] = {}

    def visit(equations: list[EquationPair]) -> None:
        for pair in equations:
            if pair.name == "scan":
                consts, carried = scan_counts(pair.params)
                skip = consts + carried
                for outer, inner in zip(pair.ins[skip:], pair.bodies[0].ins[skip:], strict=True):
                    if id(outer) in origin:
                        origin[id(inner)] = origin[id(outer)]
                for v in pair.ins[consts:skip]:
                    if id(v) in origin:
                        shifts.setdefault(origin[id(v)], set()).add(None)
            for body in pair.bodies:
                visit(body.equations)
            if pair.bodies:
                if pair.name != "scan":
                    for v in pair.ins:
                        if id(v) in origin:
                            shifts.setdefault(origin[id(v)], set()).add(None)
                continue
            for k, v in enumerate(pair.ins):
                if id(v) not in origin:
                    continue
                i = origin[id(v)]
                if pair.name in _FORWARD:
                    origin[id(pair.outs[0])] = i
                    continue
                shift = None
                if pair.name == "add":
                    const = pair.ins[1 - k].const
                    if const and const[0].uniform is not None and const[1].uniform is not None:
                        a, b = float(const[0].uniform), float(const[1].uniform)
                        shift = a if a == b != 0.0 else None
                shifts.setdefault(i, set()).add(shift)

    visit(pairs)
    agreed = ((i, next(iter(s))) for i, s in shifts.items() if len(s) == 1)
    return {i: shift for i, shift in agreed if shift is not None}
