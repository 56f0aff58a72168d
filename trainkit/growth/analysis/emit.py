"""From scale propagation to a plan: solves for scales, shares and the values of padding units."""

from __future__ import annotations

import fractions
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from trainkit.growth.analysis import input_places
from trainkit.growth.analysis.layout_requests import visible
from trainkit.growth.analysis.reasons import reasons, usual
from trainkit.growth.analysis.scales import padding
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.shares import Key, Roles, Shares, choose_shares, roles
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.linear import Expr
from trainkit.growth.axes.queries import grown_leaves
from trainkit.growth.axes.solvers import nearest
from trainkit.growth.axes.structures import structure_of
from trainkit.growth.errors import Conflict
from trainkit.growth.plan.data import AxisPlan, GrownAxis, LeafPlan, PlanData


class _Numbers:
    """Numbers of the axis leaves that grow, in the order of first use by parameters."""

    def __init__(self, describe: Callable[[Axis], GrownAxis]):
        self.describe = describe
        self.numbers: dict[int, int] = {}
        self.grown: list[GrownAxis] = []

    def one(self, leaf: Axis) -> int:
        if leaf.uid not in self.numbers:
            self.numbers[leaf.uid] = len(self.grown)
            self.grown.append(self.describe(leaf))
        return self.numbers[leaf.uid]

    def of(self, leaves: Iterable[Axis]) -> tuple[int, ...]:
        return tuple(sorted({self.one(leaf) for leaf in leaves}))


class _Solution(NamedTuple):
    """The solution for all parameters; see the fields of `AxisPlan`."""

    scales: ScalePropagation
    evaluate: Callable[[Expr], float]
    numbers: _Numbers
    chosen: list[dict[Key, int]]
    reads: Roles
    tied: Roles
    fresh: Roles
    means: Roles
    why: dict[int, str]


def emit_plan(scales: ScalePropagation) -> PlanData | Conflict:
    """Solves the propagated equations. Scales are as close as possible to 1/copies for splits.

    Returns:
      The plan; or a conflict: no parameter can be split over summed copies, or padding units would
      have to hold both 0 and a mean.
    """
    shares = choose_shares(scales)
    if isinstance(shares, Conflict):
        return shares
    reads, tied, paired = roles(scales, shares.chosen)
    held = padding.choose(scales.needs)
    if isinstance(held, Conflict):
        return held
    fresh, means = _fresh(scales, held)
    observed = {place[2] for need in scales.needs for clause in need.condition for place in clause}
    seen = visible(scales.joint)

    def describe(leaf: Axis) -> GrownAxis:
        return GrownAxis(
            leaf.small,
            leaf.big,
            scales.layouts[leaf.uid],
            leaf.uid in shares.clean,
            leaf.uid in paired,
            leaf.uid in seen,
            "random" if leaf.uid in observed else "mean",
        )

    numbers, evaluate = _Numbers(describe), _solved(scales, shares)
    why = reasons(scales, shares, evaluate)
    solution = _Solution(scales, evaluate, numbers, shares.chosen, reads, tied, fresh, means, why)
    params = enumerate(scales.analysis.params)
    leaves = tuple(_leaf_plan(solution, i, path, value) for i, (path, value) in params)
    layout = lambda leaf: scales.layouts[leaf.uid]
    inputs, results = input_places.planned(scales.joint, layout, numbers.one)
    named = ((of.name, of.symbols) for of in scales.analysis.inputs)
    return PlanData(
        leaves,
        tuple(numbers.grown),
        scales.analysis.count,
        inputs=inputs,
        results=results,
        symbols=tuple((name, places) for name, places in named if places is not None),
        zero_inputs=bool(inputs) and scales.analysis.new.new == "zero",
    )


def _solved(scales: ScalePropagation, shares: Shares) -> Callable[[Expr], float]:
    """Solves for scales, with the target 1/copies where a cell is split, and 1 elsewhere."""
    wanted = [
        (value.scale[block], usual(scales, shares, i, block), 1.0)
        for i, (_, value) in enumerate(scales.analysis.params)
        for block in np.ndindex(value.scale.shape)
    ]
    return nearest(scales.system, wanted)


def _leaf_plan(solution: _Solution, i: int, path: str, value: Value) -> LeafPlan:
    scales = solution.scales
    base, _ = scales.param_scale[i]
    axes = tuple(_axis_plan(solution, i, d, find(axis)) for d, axis in enumerate(value.axes))
    weight = _round(math.exp(solution.evaluate(base)))
    changes = weight != 1.0 or any(a and a.segments for a in axes) or scales.padding(value)
    return LeafPlan(
        path=path,
        small=value.small,
        big=value.big,
        dtype=str(value.dtype),
        axes=axes,
        weight=weight,
        shift=scales.shift.get(i, 0.0) if changes else 0.0,
        # The gradient behind a norm is not a multiple of the old one in units with a mean, and
        # copies that are looked up one by one have gradients of their own.
        calibrated=any((i, d) in solution.means for d in range(len(axes)))
        or any(x.uid in scales.looked_up for axis in value.axes for x in grown_leaves(axis)),
        reason=solution.why.get(i, ""),
    )


def _axis_plan(solution: _Solution, i: int, d: int, axis: Axis) -> AxisPlan | None:
    """How one axis of a parameter grows; `None` if it does not change."""
    scales, numbers, chosen = solution.scales, solution.numbers, solution.chosen[i]
    more, cells = scales.param_scale[i][1], scales.labels(axis)[1]
    factors = tuple(
        _round(math.exp(solution.evaluate(more[d, label]) if label else 0.0))
        for label in range(len(cells))
    )
    segments = factors if any(f != 1.0 for f in factors) else ()
    if axis.fixed and not segments:
        return None
    splits = tuple(
        numbers.of(x for x in cell if chosen.get((d, label, x.uid)))
        for label, cell in enumerate(cells)
    )
    own = grown_leaves(axis)
    among = lambda uids: numbers.of(x for x in own if x.uid in uids)
    return AxisPlan(
        structure=structure_of(axis, numbers.one),
        segments=segments,
        splits=() if axis.fixed else splits,
        reads=among(solution.reads.get((i, d), ())),
        tied=among(solution.tied.get((i, d), ())),
        fresh=among(solution.fresh.get((i, d), ())),
        means=among(solution.means.get((i, d), ())),
        ordered=among(scales.ordered.get(i, ())),
    )


def _fresh(scales: ScalePropagation, held: set[padding.Place]) -> tuple[Roles, Roles]:
    """Axis leaves in whose padding units a parameter may hold any value, and those with a mean."""
    fresh: Roles = {}
    means: Roles = {}
    for i, split in enumerate(scales.param_split):
        for d, _, uid in split:
            if (i, d, uid, padding.MEAN) in held:
                means.setdefault((i, d), set()).add(uid)
            elif uid in scales.padded and (i, d, uid, padding.ZERO) not in held:
                fresh.setdefault((i, d), set()).add(uid)
    return fresh, means


def _round(x: float) -> float:
    """A nearby small fraction, if there is one within rounding; otherwise x."""
    near = float(fractions.Fraction(x).limit_denominator(1024))
    return near if near and abs(near / x - 1) < 1e-13 else x
