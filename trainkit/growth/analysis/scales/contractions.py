"""Contractions as nested loops: scales multiply, and one operand may be split over copies."""

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
from trainkit.growth.analysis.scales.requirements import multiple_or_other
from trainkit.growth.analysis.scales.unknowns import Contraction
from trainkit.growth.analysis.values import Match, Value, leaf_of
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.linear import ZERO, Expr, constant, plus
from trainkit.growth.axes.queries import grown_leaves

# The loops over each dimension of a value (row-major if there are several), or `None` for a window
# over a fixed axis.
Dims = Sequence[tuple[int, ...] | None]


def contract(
    scales: ScalePropagation,
    pair: EquationPair,
    loops: Sequence[Axis],
    operands: Sequence[tuple[Value, Dims]],
    result: tuple[Value, Dims],
    reduced: Sequence[int],
) -> None:
    """Propagates scales through out[o] = Σᵣ Π operand[o, r], a contraction as nested loops.

    Args:
      loops: the axis of each loop.
      operands, result: values, and the loops over each of their dimensions.
      reduced: numbers of the loops that are summed over.
    """
    out = result[0]
    product = _Product(scales, pair, loops, operands, result, reduced)
    product.check()
    out.scale = np.full(scales.blocks(out), None, object)
    out.exponents = {}
    out.zeros = {}
    out.means = product.means()
    for i, means in product.rows.items():
        scales.need(means, pair, [loops[i]])
    for combo in itertools.product(*map(range, product.counts)):
        product.segment(combo)
    # Along a window every segment of the result, such as the parts of a later slice, has one scale.
    first = tuple(slice(0, 1) if names is None else slice(None) for names in result[1])
    out.scale = np.broadcast_to(out.scale[first], out.scale.shape).copy()
    scales.multiplied(operands)


class _Product:
    """One contraction. A combination of labels, one for each loop, is a segment of it."""

    def __init__(
        self,
        scales: ScalePropagation,
        pair: EquationPair,
        loops: Sequence[Axis],
        operands: Sequence[tuple[Value, Dims]],
        result: tuple[Value, Dims],
        reduced: Sequence[int],
    ):
        self.scales, self.pair, self.loops = scales, pair, loops
        self.operands, self.reduced = operands, reduced
        self.out, self.out_dims = result
        self.counts = [len(scales.labels(a)[1]) for a in loops]
        # For each label of a loop the first unit that has it.
        self.first = [
            [int(np.argmax(scales.labels(a)[0] == c)) for c in range(n)] if n > 1 else [0]
            for a, n in zip(loops, self.counts, strict=True)
        ]
        self.matched = self._matched()
        rows = {i: self._row(i) for i in reduced}
        self.rows = {i: means for i, means in rows.items() if means is not None}
        self.seen: dict[tuple[int, int, int], Expr] = {}

    def check(self) -> None:
        """Refuses loops that do not match the axes of the values."""
        scales, pair = self.scales, self.pair
        window: set[int] = set()  # leaves of a kernel's window with zeros around the old taps
        for v, dims in self.operands:
            scales.read(v)
            for d, names in enumerate(dims):
                if names is None:
                    scales.uniform(pair, v, d)
                    for e, uid in scales.padding(v):
                        if e == d and (e, uid) in v.zeros:
                            scales.need(v.zeros[e, uid], pair, [v.axes[e]])
                            window.add(uid)
        for v, dims in [*self.operands, (self.out, self.out_dims)]:
            for d, names in enumerate(dims):
                if names is None and {x.uid for x in grown_leaves(v.axes[d])} <= window:
                    continue
                if names is None and v is self.out:
                    continue  # a larger kernel may make more results, behind the old ones
                _check_loops(scales, pair, v.axes[d], [self.loops[i] for i in names or ()], names)

    def _through(self, i: int) -> list[tuple[Value, int, tuple[int, ...]]]:
        """Operands, their dimensions that a loop runs over, and all loops over these dimensions."""
        return [
            (v, d, names)
            for v, dims in self.operands
            for d, names in enumerate(dims)
            if names is not None and i in names
        ]

    def _label(self, axis: Axis, names: tuple[int, ...] | None, combo: Sequence[int]) -> int:
        """The label of an axis in a segment."""
        if names is None:
            return 0
        if len(names) == 1:
            return combo[names[0]]
        index = 0
        for i in names:
            index = index * find(self.loops[i]).small + self.first[i][combo[i]]
        return int(self.scales.labels(axis)[0][index])

    def _block(self, v: Value, dims: Dims, combo: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._label(v.axes[d], names, combo) for d, names in enumerate(dims))

    def segment(self, combo: Sequence[int]) -> None:
        """Scale and share exponents of one segment."""
        total: Expr | None = ZERO
        for v, dims in self.operands:
            expr = v.scale[self._block(v, dims, combo)]
            total = None if expr is None or total is None else plus(total, expr)
        if total is None:
            return
        for i in self.reduced:
            total = plus(total, constant(self._log_copies(i, combo)))
        block = self._block(self.out, self.out_dims, combo)
        self.out.scale[block] = self.scales.same_scale(self.pair, self.out.scale[block], total)
        for i, axis in enumerate(self.loops):
            for leaf in dict.fromkeys(self.scales.labels(axis)[1][combo[i]]):
                if (i, leaf) not in self.matched.values():  # handled together with its partner
                    self._share(i, leaf, combo, block)

    def _log_copies(self, i: int, combo: Sequence[int]) -> float:
        """log of the number of copies of each unit in a sum."""
        if i in self.rows:
            return math.log(find(self.loops[i]).big / find(self.loops[i]).small)
        cell = self.scales.labels(self.loops[i])[1][combo[i]]
        return self.scales.log_copies([x for x in cell if (i, x) not in self.matched.values()])

    def _share(self, i: int, leaf: Axis, combo: Sequence[int], block: tuple[int, ...]) -> None:
        """Propagates the share exponent of a leaf to the result, or notes it for a sum."""
        scales, exponent = self.scales, ZERO
        direct, reads = [], []
        pairs = [(i, leaf)]
        if (i, leaf) in self.matched:
            pairs.append(self.matched[i, leaf])
        for at, one in pairs:
            for v, d, names in self._through(at):
                key = (d, self._label(v.axes[d], names, combo), one.uid)
                own = v.exponents.get(key, ZERO)
                exponent = plus(exponent, own)
                if v.origin is not None and len(names) == 1:
                    direct.append(v.origin)
                    reads.append(own)
        if leaf.uid in scales.padded and i not in self.rows:
            self._padding(i, leaf)
        if i in self.reduced:
            scales.contractions.append(
                Contraction(exponent, self.pair, self.loops[i], leaf, direct, reads)
            )
            return
        for d, through in enumerate(self.out_dims):
            if through is None or i not in through:
                continue
            key = (d, block[d], leaf.uid)
            if key in self.seen:
                scales.same_exponent(self.seen[key], exponent)
            self.seen[key] = exponent
            if exponent:
                self.out.exponents[key] = exponent

    def _padding(self, i: int, leaf: Axis) -> None:
        """A product is 0 in padding units where one factor is."""
        zeros = [
            (ALWAYS if self.scales.is_zero(v) else v.zeros.get((d, leaf.uid)), v)
            for v, d, _ in self._through(i)
        ]
        empty = conditions.either(c for c, _ in zeros if c is not None)
        if i in self.reduced and empty is None:
            self.pair.fail(
                f"padding units (which copy no old unit) would be summed by `{self.pair.name}`",
                axes=[self.loops[i]],
                hint=multiple_or_other(self.loops[i]),
            )
        if empty is None:
            return
        if i in self.reduced:
            readers = [v.origin for _, v in zeros if v.origin is not None]
            self.scales.need(empty, self.pair, [self.loops[i]], readers)
        for d, names in enumerate(self.out_dims):
            if names is not None and i in names:
                self.out.zeros[d, leaf.uid] = empty

    def _matched(self) -> dict[tuple[int, Axis], tuple[int, Axis]]:
        """The partner loop of a `Match` with its leaf -> the summed loop with its leaf.

        The sum has one term for each copy of the partner.
        """
        for v, dims in self.operands:
            if isinstance(v.choice, Match):
                names = [dims[d] or () for d in v.choice.dims]
                two = [(n[0], leaf_of(a)) for n, a in zip(names, v.choice.axes, strict=True)]
                for one, other in (two, two[::-1]):
                    if one[0] in self.reduced:
                        return {other: one}
        return {}

    def _row(self, i: int) -> Condition | None:
        """The condition under which a sum is over old units and padding units with their mean."""
        uid, through = find(self.loops[i]).uid, self._through(i)
        if uid not in self.scales.rows or len(through) != 1:
            return None
        ((v, d, names),) = through
        return v.means.get((d, uid)) if names == (i,) else None

    def means(self) -> row_means.Means:
        """The means of the result: those of an operand, on axes that only this operand has."""
        result: row_means.Means = {}
        for d, uid in row_means.keys(self.out, self.scales.rows):
            names = self.out_dims[d]
            if names is None or len(names) != 1:
                continue
            through = self._through(names[0])
            if len(through) == 1 and through[0][2] == names:
                v, e, _ = through[0]
                if (e, uid) in v.means:
                    result[d, uid] = v.means[e, uid]
        return result


def _check_loops(scales: ScalePropagation, pair, axis: Axis, loops: Sequence[Axis], names) -> None:
    """Refuses if the index map of an axis is not the product of the maps of its loops."""
    if names is None:
        if not find(axis).fixed:
            pair.fail("a window runs over an axis that grows", axes=(axis,))
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
        pair.fail("the axis does not grow as the product of its factors", axes=(axis, *loops))
    both = np.unique(np.stack([label, scales.labels(axis)[0]]), axis=1)
    if both.shape[1] != len(np.unique(label)):
        pair.fail("segments and groups of an axis overlap", axes=(axis, *loops))
