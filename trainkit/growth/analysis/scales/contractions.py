"""Sums of products as nests of loops: scales multiply, one operand may carry the split."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.analysis.scales import padding as conditions
from trainkit.growth.analysis.scales import row_means
from trainkit.growth.analysis.scales.padding import ALWAYS, Condition
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.scales.unknowns import Contraction
from trainkit.growth.analysis.values import Match, Value, leaf_of
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.linear import ZERO, Expr, constant, plus
from trainkit.growth.axes.reading import grown_leaves


def contract(
    scales: ScalePropagation,
    pair: EquationPair,
    loops: Sequence[Axis],
    operands: Sequence[tuple[Value, Sequence[tuple[int, ...] | None]]],
    out: Value,
    out_dims: Sequence[tuple[int, ...] | None],
    reduced: Sequence[int],
) -> None:
    """out[o] = Σᵣ Π operand[o, r]: a contraction as nested loops.

    Each dimension of an operand or of the result is run through by the loops named for it
    (row-major where there are several), or by none (`None`: a window over a fixed axis).
    """
    window: set[int] = set()  # leaves of a kernel's window with zeros around the old taps
    for v, dims in operands:
        scales.read(v)
        for d, names in enumerate(dims):
            if names is None:
                scales.uniform(pair, v, d)
                for e, uid in scales.padding(v):
                    if e == d and (e, uid) in v.zeros:
                        scales.need(v.zeros[e, uid], pair, [v.axes[e]])
                        window.add(uid)
    counts = [len(scales.labels(a)[1]) for a in loops]
    first = [[int(np.argmax(scales.labels(a)[0] == c)) for c in range(n)] if n > 1 else [0]
             for a, n in zip(loops, counts, strict=True)]  # fmt: skip
    for v, dims in [*operands, (out, out_dims)]:
        for d, names in enumerate(dims):
            if names is None and {x.uid for x in grown_leaves(v.axes[d])} <= window:
                continue
            _check_loops(scales, pair, v.axes[d], [loops[i] for i in names or ()], names)

    def label(axis: Axis, names: tuple[int, ...] | None, combo: Sequence[int]) -> int:
        if names is None:
            return 0
        if len(names) == 1:
            return combo[names[0]]
        index = 0
        for i in names:
            index = index * find(loops[i]).small + first[i][combo[i]]
        return int(scales.labels(axis)[0][index])

    def block_of(v: Value, dims, combo) -> tuple[int, ...]:
        return tuple(label(v.axes[d], names, combo) for d, names in enumerate(dims))

    out.scale = np.full(scales.blocks(out), None, object)
    seen: dict[tuple, Expr] = {}
    out.exponents = {}
    out.zeros = {}
    out.means = _means(scales, operands, out, out_dims)
    matched = _matched(loops, operands, reduced)
    rows = {i: means for i in reduced if (means := _row(scales, loops, operands, i)) is not None}
    for i, means in rows.items():
        scales.need(means, pair, [loops[i]])
    for combo in itertools.product(*map(range, counts)):
        total: Expr | None = ZERO
        for v, dims in operands:
            expr = v.scale[block_of(v, dims, combo)]
            total = None if expr is None or total is None else plus(total, expr)
        if total is None:
            continue
        for i in reduced:
            cell = scales.labels(loops[i])[1][combo[i]]
            copies = scales.log_copies([x for x in cell if (i, x) != matched[:2]])
            if i in rows:
                copies = math.log(find(loops[i]).big / find(loops[i]).small)
            total = plus(total, constant(copies))
        block = block_of(out, out_dims, combo)
        out.scale[block] = scales.same_scale(pair, out.scale[block], total)
        for i, axis in enumerate(loops):
            for leaf in dict.fromkeys(scales.labels(axis)[1][combo[i]]):
                if (i, leaf) == matched[:2]:
                    continue  # with its partner
                exponent = ZERO
                direct, reads = [], []
                for at, one in ((i, leaf), matched[:2] if (i, leaf) == matched[2:] else (-1, leaf)):
                    for v, dims in operands:
                        for d, names in enumerate(dims):
                            if names is None or at not in names:
                                continue
                            key = (d, label(v.axes[d], names, combo), one.uid)
                            exponent = plus(exponent, v.exponents.get(key, ZERO))
                            if v.origin is not None and len(names) == 1:
                                direct.append(v.origin)
                                reads.append(v.exponents.get(key, ZERO))
                if leaf.uid in scales.padded and i not in rows:
                    _contract_padding(
                        scales, pair, loops, operands, out, out_dims, i, leaf, i in reduced
                    )
                if i in reduced:
                    scales.contractions.append(
                        Contraction(exponent, pair, axis, leaf, direct, reads)
                    )
                    continue
                for d, names in enumerate(out_dims):
                    if names is not None and i in names:
                        key = (d, block[d], leaf.uid)
                        if key in seen:
                            scales.same_exponent(seen[key], exponent)
                        seen[key] = exponent
                        if exponent:
                            out.exponents[key] = exponent


def _matched(loops: Sequence[Axis], operands, reduced) -> tuple:
    """Of copies that an operand matches with one another (see `choices`): a loop whose sum takes
    one copy for each of its partner's, with its leaf, and the partner, with its leaf."""
    for v, dims in operands:
        if isinstance(v.choice, Match):
            two = [(dims[d][0], leaf_of(a)) for d, a in zip(*v.choice[:2], strict=True)]
            for one, other in (two, two[::-1]):
                if one[0] in reduced:
                    return *one, *other
    return ()


def _row(scales: ScalePropagation, loops: Sequence[Axis], operands, i: int) -> Condition | None:
    """When a sum over an axis is over old units and new ones that hold their mean."""
    uid = find(loops[i]).uid
    found = [
        (v, d, names)
        for v, dims in operands
        for d, names in enumerate(dims)
        if names is not None and i in names
    ]
    if uid not in scales.rows or len(found) != 1:
        return None
    ((v, d, names),) = found
    return v.means.get((d, uid)) if names == (i,) else None


def _means(scales: ScalePropagation, operands, out: Value, out_dims) -> row_means.Means:
    """One operand alone runs through an axis: its means are the result's."""
    result: row_means.Means = {}
    for d, uid in row_means.keys(out, scales.rows):
        if out_dims[d] is None or len(out_dims[d]) != 1:
            continue
        (i,) = out_dims[d]
        found = [
            (v, e, names)
            for v, dims in operands
            for e, names in enumerate(dims)
            if names is not None and i in names
        ]
        if len(found) == 1 and found[0][2] == (i,) and (found[0][1], uid) in found[0][0].means:
            result[d, uid] = found[0][0].means[found[0][1], uid]
    return result


def _contract_padding(
    scales: ScalePropagation, pair, loops, operands, out, out_dims, i, leaf, reduced
) -> None:
    found = [
        (ALWAYS if scales.is_zero(v) else v.zeros.get((d, leaf.uid)), v)
        for v, dims in operands
        for d, names in enumerate(dims)
        if names is not None and i in names
    ]
    empty = conditions.either(c for c, _ in found if c is not None)
    if reduced and empty is not None:
        readers = [v.origin for _, v in found if v.origin is not None]
        scales.need(empty, pair, [loops[i]], readers)
    if reduced and empty is None:
        pair.fail(
            f"units that copy nothing would be summed by `{pair.name}`",
            axes=[loops[i]],
            hint="grow this axis to a multiple, or grow another axis",
        )
    for d, names in enumerate(out_dims):
        if names is not None and i in names and empty is not None:
            out.zeros[d, leaf.uid] = empty


def _check_loops(scales: ScalePropagation, pair, axis: Axis, loops: Sequence[Axis], names) -> None:
    """The map of an axis must be the product of the maps of the loops that run through it."""
    if names is None:
        if not find(axis).fixed:
            pair.fail("a window runs over an axis that grows", axes=(axis,))
        return
    if len(loops) == 1 and find(axis) is find(loops[0]):
        return
    source = np.zeros(1, np.int64)
    label = np.zeros(1, np.int64)
    for loop in loops:
        more = scales.source(loop)
        bad = (source[:, None] < 0) | (more[None, :] < 0)
        merged = source[:, None] * find(loop).small + more[None, :]
        source = np.where(bad, -1, merged).reshape(-1)
        ids, cells = scales.labels(loop)
        label = (label[:, None] * len(cells) + ids[None, :]).reshape(-1)
    if not np.array_equal(source, scales.source(axis)):
        pair.fail("the axis does not grow as the product it is used as", axes=(axis, *loops))
    both = np.unique(np.stack([label, scales.labels(axis)[0]]), axis=1)
    if both.shape[1] != len(np.unique(label)):
        pair.fail("the segments of an axis cut through its groups", axes=(axis, *loops))
