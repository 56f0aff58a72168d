"""From scale propagation to a plan: which scales, which splits, which units hold what."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from trainkit.growth.analysis import padding
from trainkit.growth.analysis.joint_program import Analysis
from trainkit.growth.analysis.scales import ScalePropagation
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.reading import grown_leaves
from trainkit.growth.axes.solvers import choose, nearest
from trainkit.growth.axes.structures import structure_of
from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.data import AxisPlan, GrownAxis, LeafPlan, PlanData


def emit(
    analysis: Analysis, scales: ScalePropagation, layouts: dict[int, str], visible: set[int]
) -> PlanData:
    chosen, clean = _choose_splits(analysis, scales)
    reads, tied, paired = _roles(scales, chosen)
    fresh, means = _fresh(scales)
    looked_at = {place[2] for need in scales.needs for clause in need.condition for place in clause}
    numbers: dict[int, int] = {}
    grown_axes: list[GrownAxis] = []

    def number(leaf: Axis) -> int:
        if leaf.uid not in numbers:
            numbers[leaf.uid] = len(grown_axes)
            grown_axes.append(
                GrownAxis(
                    leaf.small,
                    leaf.big,
                    layouts[leaf.uid],
                    leaf.uid in clean,
                    leaf.uid in paired,
                    leaf.uid in visible,
                    "random" if leaf.uid in looked_at else "mean",
                )
            )
        return numbers[leaf.uid]

    def numbers_of(leaves: Iterable[Axis]) -> tuple[int, ...]:
        return tuple(sorted({number(leaf) for leaf in leaves}))

    wanted = []
    for i, (_, value) in enumerate(analysis.params):
        base, more = scales.param_scale[i]
        for block in np.ndindex(value.scale.shape):
            target = 0.0
            for d, label in enumerate(block):
                for leaf in scales.labels(value.axes[d])[1][label]:
                    if chosen[i].get((d, label, leaf.uid)):
                        target -= scales.factors[leaf.uid] or 0.0
            wanted.append((value.scale[block], target, 1.0))
    evaluate = nearest(scales.system, wanted)

    plans = []
    for i, (path, value) in enumerate(analysis.params):
        base, more = scales.param_scale[i]
        axes = []
        for d, axis in enumerate(map(find, value.axes)):
            cells = scales.labels(axis)[1]
            factors = tuple(
                _round(math.exp(evaluate(more[d, label]) if label else 0.0))
                for label in range(len(cells))
            )
            segments = factors if any(s != 1.0 for s in factors) else ()
            if axis.fixed and not segments:
                axes.append(None)
                continue
            splits = tuple(
                numbers_of(x for x in dict.fromkeys(cell) if chosen[i].get((d, label, x.uid)))
                for label, cell in enumerate(cells)
            )
            own = grown_leaves(axis)
            held = lambda uids, own=own: numbers_of(x for x in own if x.uid in uids)
            axes.append(
                AxisPlan(
                    structure=structure_of(axis, number),
                    segments=segments,
                    splits=() if axis.fixed else splits,
                    reads=held(reads.get((i, d), ())),
                    tied=held(tied.get((i, d), ())),
                    fresh=held(fresh.get((i, d), ())),
                    means=held(means.get((i, d), ())),
                    ordered=held(scales.ordered.get(i, ())),
                )
            )
        weight = _round(math.exp(evaluate(base)))
        shift = scales.shift.get(i, 0.0)
        if weight == 1.0 and not any(a and a.segments for a in axes) and not scales.padding(value):
            shift = 0.0
        plans.append(
            LeafPlan(
                path=path,
                small=value.small,
                big=value.big,
                dtype=str(value.dtype),
                axes=tuple(axes),
                weight=weight,
                shift=shift,
                # What a norm passes back to the units of a mean is no multiple of what it did.
                calibrated=any((i, d) in means for d in range(len(value.axes))),
            )
        )
    return PlanData(tuple(plans), tuple(grown_axes), analysis.count)


def _roles(scales: ScalePropagation, chosen):
    """Which grown leaves each axis of each parameter is contracted over itself, over which of them
    it writes too, and over which two activations are contracted."""
    owner = {
        var: (i, key)
        for i, split in enumerate(scales.param_split)
        for key, expr in split.items()
        for var in expr
    }
    reads: dict[tuple[int, int], set[int]] = {}
    tied: dict[tuple[int, int], set[int]] = {}
    paired = set()
    for c in scales.contractions:
        if not c.direct and c.pair.name == "dot_general":
            paired.add(c.leaf.uid)
        for expr in c.reads:
            for var in expr:
                if var not in owner:
                    continue
                i, key = owner[var]
                reads.setdefault((i, key[0]), set()).add(c.leaf.uid)
                if not chosen[i][key] and scales.factors[c.leaf.uid] != 0.0:
                    # What reads an axis takes the split, unless it is looked at elsewhere too.
                    tied.setdefault((i, key[0]), set()).add(c.leaf.uid)
    return reads, tied, paired


def _fresh(
    scales: ScalePropagation,
) -> tuple[dict[tuple[int, int], set[int]], dict[tuple[int, int], set[int]]]:
    """The axis leaves in whose new units a parameter may hold anything, and those in which it
    holds the mean of the old ones."""
    chosen = padding.choose(scales.needs)
    fresh: dict[tuple[int, int], set[int]] = {}
    means: dict[tuple[int, int], set[int]] = {}
    for i, split in enumerate(scales.param_split):
        for d, _, uid in split:
            if (i, d, uid, padding.MEAN) in chosen:
                means.setdefault((i, d), set()).add(uid)
            elif uid in scales.padded and (i, d, uid, padding.ZERO) not in chosen:
                fresh.setdefault((i, d), set()).add(uid)
    return fresh, means


def _round(x: float) -> float:
    """The nearest small fraction where x is one to within rounding."""
    for q in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 32, 64, 128, 256, 512, 1024):
        near = round(x * q) / q
        if near and abs(near / x - 1) < 1e-13:
            return near
    return x


def _choose_splits(analysis: Analysis, scales: ScalePropagation):
    """Which parameters carry the split of which leaf, and which leaves are split wherever read."""
    direct: dict[int, set[int]] = {}
    for c in scales.contractions:
        for origin in c.direct:
            direct.setdefault(c.leaf.uid, set()).add(origin)
    bits = []
    for i, split in enumerate(scales.param_split):
        for (_, _, uid), expr in split.items():
            fixed = scales.factors[uid] == 0.0  # nothing is copied: nothing to split
            if fixed:
                scales.splits.require_zero(expr)
            bits.append((expr, 0.0 if i in direct.get(uid, ()) else -1.0))
    between = [
        (
            c.total,
            scales.factors[c.leaf.uid] is None,
            0.0 if scales.factors[c.leaf.uid] == 0 else 10.0,
        )
        for c in scales.contractions
    ]
    value, culprits = choose(scales.splits, bits, between)
    if value is None:
        c = scales.contractions[culprits[0]]
        try:
            c.pair.fail("no parameter can be split over the copies that are summed", axes=(c.leaf,))
        except GrowthError as error:
            error.others = [scales.contractions[i].leaf for i in culprits[1:]]
            raise
    chosen = [{key: value(expr) for key, expr in split.items()} for split in scales.param_split]
    totals: dict[int, list[int]] = {}
    for c in scales.contractions:
        totals.setdefault(c.leaf.uid, []).append(value(c.total))
    clean = {
        uid for uid, t in totals.items() if uid not in scales.watched and all(x == 1 for x in t)
    }
    return chosen, clean
