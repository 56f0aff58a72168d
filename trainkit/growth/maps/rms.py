"""The width rule that keeps the scale of activations instead of the function."""

from __future__ import annotations

import numpy as np

from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.reading import coordinate, source_map
from trainkit.growth.axes.structures import axis_from
from trainkit.growth.plan.data import LeafPlan, Plan, copies
from trainkit.growth.plan.leaf_map import AxisGrowth, LeafGrowth


def rms_growth(plan: Plan, leaf: LeafPlan, nodes: list[Axis]) -> LeafGrowth:
    """W′ = W[π] · √(d_in / d_in′) with d_in what the leaf is contracted over; all else is copied.

    Gradients are taken to shrink as they do in an even growth; the certificate measures the jump.
    """
    grown: list[AxisGrowth | None] = []
    for planned in leaf.axes:
        if planned is None:
            grown.append(None)
            continue
        axis = find(axis_from(planned.structure, nodes))
        source = source_map(axis)
        weight = np.ones(len(source))
        for n in planned.reads:
            inside = coordinate(axis, nodes[n], of_big=True) >= 0
            weight[inside] *= np.sqrt(plan.grown_axes[n].small / plan.grown_axes[n].big)
        gradient = 1.0 / (weight * copies(source, axis.small))
        grown.append(AxisGrowth(source.astype(np.int32), weight, gradient, "zero"))
    return LeafGrowth(tuple(grown), exact_gradient=False)
