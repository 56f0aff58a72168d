"""From scale propagation to a plan: which scales, which splits, which units hold what."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from trainkit.growth.analysis.layout_requests import visible
from trainkit.growth.analysis.scales import padding
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.shares import Key, Roles, Shares, choose_shares, roles
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.linear import Expr
from trainkit.growth.axes.reading import grown_leaves
from trainkit.growth.axes.solvers import nearest
from trainkit.growth.axes.structures import structure_of
from trainkit.growth.errors import Conflict
from trainkit.growth.plan.data import AxisLeaf, LeafPlan, Plan


class _Parts:
    """The leaves that grow, numbered as parameters come upon them."""

    def __init__(self, describe: Callable[[Axis], AxisLeaf]):
        self.describe = describe
        self.numbers: dict[int, int] = {}
        self.atoms: list[AxisLeaf] = []

    def number(self, leaf: Axis) -> int:
        if leaf.uid not in self.numbers:
            self.numbers[leaf.uid] = len(self.atoms)
            self.atoms.append(self.describe(leaf))
        return self.numbers[leaf.uid]

    def along(self, uids: Roles, i: int, value: Value) -> tuple[tuple[int, ...], ...]:
        """For each axis of a parameter the numbers of the leaves that are meant."""
        return tuple(
            tuple(
                sorted({self.number(x) for x in grown_leaves(a) if x.uid in uids.get((i, d), ())})
            )
            for d, a in enumerate(value.axes)
        )


class _Found(NamedTuple):
    """What is known of the parameters together; see the fields of `LeafPlan`."""

    scales: ScalePropagation
    evaluate: Callable[[Expr], float]
    parts: _Parts
    chosen: list[dict[Key, int]]
    reads: Roles
    tied: Roles
    fresh: Roles
    means: Roles


def emit_plan(scales: ScalePropagation) -> Plan | Conflict:
    """Solves the equations that were propagated, nearest to the split that is usual.

    Returns:
      The plan; or the conflict of copies that no parameter can be split for, or of new units that
      would have to hold two things.
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

    def describe(leaf: Axis) -> AxisLeaf:
        return AxisLeaf(
            leaf.small,
            leaf.big,
            scales.layouts[leaf.uid],
            leaf.uid in shares.clean,
            leaf.uid in paired,
            leaf.uid in seen,
            "random" if leaf.uid in observed else "mean",
        )

    parts, evaluate = _Parts(describe), _solved(scales, shares)
    found = _Found(scales, evaluate, parts, shares.chosen, reads, tied, fresh, means)
    params = enumerate(scales.analysis.params)
    leaves = tuple(_leaf_plan(found, i, path, value) for i, (path, value) in params)
    return Plan(leaves=leaves, atoms=tuple(parts.atoms), equations=scales.analysis.count)


def _solved(scales: ScalePropagation, shares: Shares) -> Callable[[Expr], float]:
    """Scales of which as many as can be are those of the split: 1/copies where a cell is split."""
    wanted = []
    for i, (_, value) in enumerate(scales.analysis.params):
        for block in np.ndindex(value.scale.shape):
            target = 0.0
            for d, label in enumerate(block):
                for leaf in scales.labels(value.axes[d])[1][label]:
                    if shares.chosen[i].get((d, label, leaf.uid)):
                        target -= scales.factors[leaf.uid] or 0.0
            wanted.append((value.scale[block], target, 1.0))
    return nearest(scales.system, wanted)


def _leaf_plan(found: _Found, i: int, path: str, value: Value) -> LeafPlan:
    scales, parts = found.scales, found.parts
    base, more = scales.param_scale[i]
    segments: list[tuple[float, ...]] = []
    splits, structures = [], []
    for d, axis in enumerate(map(find, value.axes)):
        cells = scales.labels(axis)[1]
        factors = tuple(
            _round(math.exp(found.evaluate(more[d, label]) if label else 0.0))
            for label in range(len(cells))
        )
        segments.append(factors if any(f != 1.0 for f in factors) else ())
        splits.append(() if axis.fixed else _splits(found, i, d, cells))
        plain = axis.fixed and not segments[-1]
        structures.append(None if plain else structure_of(axis, parts.number))
    weight = _round(math.exp(found.evaluate(base)))
    changes = weight != 1.0 or any(segments) or scales.padding(value)
    ordered = {(i, d): scales.ordered.get(i, set()) for d in range(len(value.axes))}
    return LeafPlan(
        path=path,
        small=value.small,
        big=value.big,
        dtype=str(value.dtype),
        axes=tuple(structures),
        weight=weight,
        segments=tuple(segments),
        splits=tuple(splits),
        shift=scales.shift.get(i, 0.0) if changes else 0.0,
        reads=parts.along(found.reads, i, value),
        tied=parts.along(found.tied, i, value),
        fresh=parts.along(found.fresh, i, value),
        means=parts.along(found.means, i, value),
        ordered=parts.along(ordered, i, value) if i in scales.ordered else (),
        # What a norm passes back to the units of a mean is no multiple of what it did.
        calibrated=any((i, d) in found.means for d in range(len(value.axes))),
    )


def _splits(found: _Found, i: int, d: int, cells: list[tuple[Axis, ...]]) -> tuple[Any, ...]:
    """For each segment of an axis the leaves over whose copies the parameter is split."""
    chosen = found.chosen[i]
    return tuple(
        tuple(
            sorted(
                found.parts.number(leaf)
                for leaf in dict.fromkeys(cell)
                if chosen.get((d, label, leaf.uid))
            )
        )
        for label, cell in enumerate(cells)
    )


def _fresh(scales: ScalePropagation, held: set[padding.Place]) -> tuple[Roles, Roles]:
    """The axis leaves in whose new units a parameter may hold anything, and those in which it
    holds the mean of the old ones."""
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
    """The nearest small fraction where x is one to within rounding."""
    for q in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 32, 64, 128, 256, 512, 1024):
        near = round(x * q) / q
        if near and abs(near / x - 1) < 1e-13:
            return near
    return x
