"""Moved elements: the source index of each element of a result, in both programs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.analysis.scales import padding as conditions
from trainkit.growth.analysis.scales import row_means
from trainkit.growth.analysis.scales.padding import ALWAYS, Condition
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.scales.requirements import hint_of
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.linear import ZERO, Expr
from trainkit.growth.axes.queries import around, grown_leaves

ANY = "any"  # an unknown index: every old element may go anywhere


class Group(NamedTuple):
    """Dimensions `src` of an operand that become dimensions `out` of a result together.

    `small` and `big` give, for each index of the result (row-major over `out`), the index of the
    operand (row-major over `src`), −1 for no source. `None` is the identity.
    """

    src: tuple[int, ...]
    out: tuple[int, ...]
    small: Any = None
    big: Any = None


def move(
    scales: ScalePropagation,
    pair: EquationPair,
    out: Value,
    pieces: Sequence[tuple[Value, Sequence[Group]]],
    filled: Value | None = None,
) -> None:
    """Propagates scales to a result whose elements are moved elements of operands.

    Args:
      pieces: operands, each with the groups of dimensions that move together.
      filled: the scalar for elements without a source; `None` if another piece has them.
    """
    shape = scales.blocks(out)
    filler: Any = False if filled is None else scales.read(filled).scale[()]
    # A fill value is written to padding units of other axes too.
    numbers = filled is not None and not scales.is_zero(filled)
    numbers = numbers and any(_has_holes(g) for _, groups in pieces for g in groups)
    out.scale = np.full(shape, None, object)
    out.exponents = {}
    out.zeros = {}
    for d, uid in [] if numbers else scales.padding(out):
        every = conditions.both(
            _zero_moved(scales, src, out, groups, d, uid) for src, groups in pieces
        )
        if every is not None:
            out.zeros[d, uid] = every
    if row_means.moves_linearly(pair):
        out.means = {
            (d, uid): means
            for d, uid in row_means.keys(out, scales.rows)
            if (means := conditions.both(_means_moved(scales, *p, out, d, uid) for p in pieces))
            is not None
        }
    seen: dict[tuple[int, int, int], Expr] = {}
    for src, groups in pieces:
        scales.read(src)
        if numbers and filler is not None:
            scales.pin_exponents(src)  # a fill value is not split over copies
        tables = [_label_table(scales, pair, src, out, g) for g in groups]
        silent = all(e is None for e in src.scale.flat)
        for block in np.ndindex(shape):
            choices, holes = [], False
            for g, table in zip(groups, tables, strict=True):
                sources, hole = table.get(tuple(block[d] for d in g.out), ([], True))
                choices.append(sources)
                holes |= hole
            for combo in itertools.product(*choices):
                at = [0] * len(src.axes)
                for g, labels_of in zip(groups, combo, strict=True):
                    for d, label in zip(g.src, labels_of, strict=True):
                        at[d] = label
                out.scale[block] = scales.same_scale(pair, out.scale[block], src.scale[tuple(at)])
            if holes and filler is not False:
                out.scale[block] = scales.same_scale(pair, out.scale[block], filler)
                if filler is not None:
                    silent = False
        if silent:
            continue
        for g, table in zip(groups, tables, strict=True):
            _move_splits(scales, src, out, g, table, seen)
    out.exponents = {key: expr for key, expr in seen.items() if expr}


def _has_holes(group: Group) -> bool:
    return any(isinstance(m, np.ndarray) and bool((m < 0).any()) for m in (group.small, group.big))


def _zero_moved(
    scales: ScalePropagation, src: Value, out: Value, groups, d: int, uid: int
) -> Condition | None:
    """The condition under which an operand gives 0 to padding units of a leaf of the result."""
    if scales.is_zero(scales.read(src)):
        return ALWAYS
    (group,) = [g for g in groups if d in g.out]
    sources = [key for key in scales.padding(src) if key[0] in group.src and key[1] == uid]
    if not sources:
        # The operand has no elements there, or the same one for every unit.
        missing = isinstance(group.small, np.ndarray) and bool((group.small < 0).any())
        return ALWAYS if missing else None
    return conditions.both(src.zeros.get(key) for key in sources)


def _means_moved(
    scales: ScalePropagation, src: Value, groups, out: Value, d: int, uid: int
) -> Condition | None:
    """The condition under which padding units of moved elements hold the mean of the old units."""
    (group,) = [g for g in groups if d in g.out]
    dims = [e for e in group.src if (src.small[e], src.big[e]) != (1, 1)]
    if not dims or (len(dims) == 1 and row_means.constant_along(scales.constants, src, dims[0])):
        return ALWAYS
    only = [o for o in group.out if (out.small[o], out.big[o]) != (1, 1)] == [d]
    in_order = group.big is None and (
        group.small is None or np.array_equal(group.small, np.arange(out.small[d]))
    )
    if group.small is None and group.big is None:
        return _means_reshaped(scales, src, group, out, d, uid)
    if len(dims) > 1 or not only or not in_order:
        return None
    same = find(src.axes[dims[0]]) is find(out.axes[d])
    return src.means.get((dims[0], uid)) if same else None


def _means_reshaped(
    scales: ScalePropagation, src: Value, group: Group, out: Value, d: int, uid: int
) -> Condition | None:
    """`_means_moved` where elements keep their order: the leaf has to stay where it is in it."""

    def place(value: Value, dims: Sequence[int], e: int) -> list[tuple[int, int]]:
        """The numbers of units before and behind the leaf, in both programs."""
        (leaf,) = [leaf for leaf in grown_leaves(value.axes[e]) if leaf.uid == uid]
        before, behind = around(value.axes[e], leaf) or (0, 0)
        i = dims.index(e)
        return [
            (
                math.prod(sizes[k] for k in dims[:i]) * before,
                math.prod(sizes[k] for k in dims[i + 1 :]) * behind,
            )
            for sizes in (value.small, value.big)
        ]

    sources = [e for e, of in row_means.keys(src, scales.rows) if of == uid and e in group.src]
    if len(sources) != 1 or place(src, group.src, sources[0]) != place(out, group.out, d):
        return None
    return src.means.get((sources[0], uid))


def _move_splits(scales: ScalePropagation, src, out, g: Group, table, seen) -> None:
    for out_labels, (sources, _) in table.items():
        for d, label in zip(g.out, out_labels, strict=True):
            cell = scales.labels(out.axes[d])[1][label]
            for leaf in dict.fromkeys(cell):
                key = (d, label, leaf.uid)
                for src_labels in sources:
                    places = [
                        (ds, ls)
                        for ds, ls in zip(g.src, src_labels, strict=True)
                        if leaf in scales.labels(src.axes[ds])[1][ls]
                    ]
                    exprs = [src.exponents.get((*p, leaf.uid), ZERO) for p in places]
                    if len(places) != 1 or cell.count(leaf) > 1:
                        for expr in exprs:  # a leaf that occurs twice, or a broadcast axis
                            scales.splits.require_zero(expr)
                        exprs = [ZERO]
                    if key in seen:
                        scales.same_exponent(seen[key], exprs[0])
                    else:
                        seen[key] = exprs[0]


def _label_table(
    scales: ScalePropagation, pair: EquationPair, src: Value, out: Value, g: Group
) -> dict:
    """Labels of the result -> (labels of the operand that they come from, any without source)."""
    src_axes = [find(src.axes[d]) for d in g.src]
    out_axes = [find(out.axes[d]) for d in g.out]
    src_labels, out_labels = _flat(scales, src_axes), _flat(scales, out_axes)
    if isinstance(g.small, str):
        if any(not a.fixed for a in (*src_axes, *out_axes)):
            pair.fail("an axis that grows is indexed by unknown values", axes=src_axes)
        every = [tuple(r) for r in np.unique(src_labels, axis=0)]
        return {tuple(r): (every, False) for r in np.unique(out_labels, axis=0)}
    if g.small is None and len(src_axes) == len(out_axes) == 1 and src_axes[0] is out_axes[0]:
        n = len(scales.labels(src_axes[0])[1])
        return {(c,): ([(c,)], False) for c in range(n)}
    grows = any(not a.fixed for a in (*src_axes, *out_axes))
    if not grows and src_labels.max(initial=0) == 0 == out_labels.max(initial=0):
        hole = g.small is not None and bool((np.asarray(g.small) < 0).any())
        some = g.small is None or bool((np.asarray(g.small) >= 0).any())
        only = (0,) * len(src_axes)
        return {(0,) * len(out_axes): ([only] if some else [], hole)}
    small = np.arange(len(out_labels)) if g.small is None else np.asarray(g.small)
    if grows:
        _check_move(scales, pair, src_axes, out_axes, small, g)
    result: dict[tuple, tuple[list, bool]] = {}
    if not len(src_labels):  # an operand without elements
        src_labels = np.zeros((1, len(src_axes)), np.int64)
    table = np.concatenate([out_labels, np.where(small[:, None] < 0, -1, src_labels[small])], 1)
    n = len(out_axes)
    for row in np.unique(table, axis=0):
        key = tuple(int(x) for x in row[:n])
        sources, hole = result.get(key, ([], False))
        # An operand without dimensions in the group has one element only.
        outside = bool(row[n] < 0) if len(row) > n else False
        if outside:
            hole = True
        else:
            sources = [*sources, tuple(int(x) for x in row[n:])]
        result[key] = (sources, hole)
    if not src_axes and (small < 0).any():
        for key in list(result):
            at = np.all(out_labels == np.array(key), axis=1)
            inside = bool((small[at] >= 0).any())
            result[key] = ([()] if inside else [], bool((small[at] < 0).any()))
    return result


def _check_move(
    scales: ScalePropagation, pair, src_axes, out_axes, small: np.ndarray, g: Group
) -> None:
    """Proves that moving and copying commute: π(src[big]) = src[small][π(out)]."""
    src_map, out_map = _flat_source(scales, src_axes), _flat_source(scales, out_axes)
    big = np.arange(len(out_map)) if g.big is None else np.asarray(g.big)
    inside = big >= 0
    alive = out_map >= 0
    left = np.where(inside, src_map[np.where(inside, big, 0)], -2)
    right = np.where(alive, small[np.where(alive, out_map, 0)], -1)
    right = np.where(alive & (right < 0), -2, right)
    ok = (left == right) | (~alive & ((left == -1) | (left == -2)))
    if all(a.fixed for a in src_axes) and (small >= 0).all():
        ok |= ~alive  # a broadcast: padding units equal all others
    if not ok.all():
        pair.fail(
            f"`{pair.name}` moves copies of a unit to positions of another unit",
            axes=[*src_axes, *out_axes],
            hint=hint_of(pair),
        )


def _flat(scales: ScalePropagation, axes: Sequence[Axis]) -> np.ndarray:
    """The labels of each index of a group of axes: int64[indices, axes]."""
    total = math.prod(a.small for a in axes)
    out = np.empty((total, len(axes)), np.int64)
    every, each = 1, total
    for i, a in enumerate(axes):
        each //= max(a.small, 1)
        out[:, i] = np.tile(np.repeat(scales.labels(a)[0], each), every)
        every *= a.small
    return out


def _flat_source(scales: ScalePropagation, axes: Sequence[Axis]) -> np.ndarray:
    source = np.zeros(1, np.int64)
    for a in axes:
        more = scales.source(a)
        bad = (source[:, None] < 0) | (more[None, :] < 0)
        merged = source[:, None] * a.small + more[None, :]
        source = np.where(bad, -1, merged).reshape(-1)
    return source
