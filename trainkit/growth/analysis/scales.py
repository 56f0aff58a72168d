"""Scales and splits carried through the joint program, equation by equation.

What holds of every value, with π the index maps of its axes:

    V[J] = exp(scale[block of J]) · Π ρ̃(J)^exponents · v[π(J)]

`scale` has one linear expression for each block (one label an axis); `None` stands for a value
that is 0, ±∞ or NaN there, which any scale fits. `exponents` has, for each (dimension, label,
leaf), the exponent of the shares ρ̃ of that leaf's copies: 0 for a plain copy, 1 for a value that
is split over the copies. ρ̃ has mean 1 over the copies of each unit, so that a contraction with one
split is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from trainkit.growth.analysis import padding as conditions
from trainkit.growth.analysis import row_means, signs
from trainkit.growth.analysis.joint_program import Analysis, EquationPair, Value
from trainkit.growth.analysis.padding import ALWAYS, MEAN, Condition, Need
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.linear import ZERO, Expr, System, plus
from trainkit.growth.axes.reading import coordinate, labels, source_map


class Contraction(NamedTuple):
    """A sum over a grown leaf: the sum of its operands' share exponents must be 0 or 1."""

    total: Expr
    pair: EquationPair
    axis: Axis
    leaf: Axis
    direct: list[int]  # parameters that are operands themselves
    reads: list[Expr]  # the share exponents of those parameters


class ScalePropagation:
    """The state of the pass: two systems of equations and the contractions met."""

    def __init__(
        self,
        analysis: Analysis,
        factors: dict[int, float | None],
        padded: frozenset[int] = frozenset(),
        rows: frozenset[int] = frozenset(),
    ):
        self.analysis = analysis
        self.padded = padded  # uids of leaves with new units that copy nothing
        self.rows = rows  # those of them whose new units may hold the mean of the old
        self.producers: dict[int, EquationPair] = {}
        self.watched: set[int] = set()  # leaves whose copies something else than a sum looks at
        self.ordered: dict[int, set[int]] = {}  # parameter -> leaves whose copies it must tie along
        self.factors = factors  # leaf uid -> log of the copies a unit, None where uneven
        self.system = System()
        self.splits = System()
        self.contractions: list[Contraction] = []
        self.needs: list[Need] = []  # what new units must hold
        self.param_scale: list[tuple[Expr, dict[tuple[int, int], Expr]]] = []
        self.param_split: list[dict[tuple[int, int, int], Expr]] = []
        self.shift: dict[int, float] = {}
        self.shiftable: dict[int, float] = {}  # parameter -> s where every use is w + s
        self.read_constant: Callable[[Value], np.ndarray] = lambda v: np.empty(())
        self._labels: dict[int, tuple[np.ndarray, list[tuple[Axis, ...]]]] = {}
        self._sources: dict[int, np.ndarray] = {}

    # -- axes ---------------------------------------------------------------------------------

    def labels(self, axis: Axis) -> tuple[np.ndarray, list[tuple[Axis, ...]]]:
        root = find(axis)
        if root.uid not in self._labels:
            self._labels[root.uid] = labels(root)
        return self._labels[root.uid]

    def source(self, axis: Axis) -> np.ndarray:
        root = find(axis)
        if root.uid not in self._sources:
            self._sources[root.uid] = source_map(root)
        return self._sources[root.uid]

    def blocks(self, value: Value) -> tuple[int, ...]:
        return tuple(len(self.labels(a)[1]) for a in value.axes)

    def cells(self, value: Value) -> list[tuple[int, int, Axis]]:
        """All (dimension, label, grown leaf) of a value."""
        return [
            (d, label, leaf)
            for d, axis in enumerate(value.axes)
            for label, cell in enumerate(self.labels(axis)[1])
            for leaf in dict.fromkeys(cell)
        ]

    def log_copies(self, cell: Sequence[Axis]) -> float:
        """log of how many copies each unit of a cell has (uneven leaves are split instead)."""
        return sum(self.factors[find(leaf).uid] or 0.0 for leaf in cell)

    # -- sources ------------------------------------------------------------------------------

    def parameter(self, value: Value) -> None:
        """Gives a parameter its unknowns: one scale, one more a label, one split a cell."""
        base = self.system.variable()
        more: dict[tuple[int, int], Expr] = {}
        for d, n in enumerate(self.blocks(value)):
            for label in range(1, n):
                more[d, label] = self.system.variable()
        scale = np.empty(self.blocks(value), object)
        for block in np.ndindex(scale.shape):
            expr = base
            for d, label in enumerate(block):
                if label:
                    expr = plus(expr, more[d, label])
            scale[block] = expr
        value.scale = scale
        value.exponents = {
            (d, label, leaf.uid): self.splits.variable() for d, label, leaf in self.cells(value)
        }
        i = len(self.param_scale)
        value.zeros = {(d, uid): conditions.of(i, d, uid) for d, uid in self.padding(value)}
        value.means = {
            (d, uid): conditions.of(i, d, uid, MEAN) for d, uid in row_means.keys(value, self.rows)
        }
        self.param_scale.append((base, more))
        self.param_split.append(dict(value.exponents))

    def whole_numbers(self, value: Value) -> None:
        """Whole numbers and bits are copied: they take no factor, no share, and hold no mean."""
        for expr in value.scale.flat:
            self.system.require_zero(expr)
        self.pin_exponents(value)
        value.means = {}

    def plain(self, value: Value) -> None:
        """A value that is exactly the small one's duplicate."""
        value.scale = np.full(self.blocks(value), None, object)
        for block in np.ndindex(value.scale.shape):
            value.scale[block] = ZERO
        value.exponents = {}
        value.zeros = {}
        value.means = {}

    def unknown(self, value: Value) -> None:
        """A value whose scale later equations decide (a loop's carry)."""
        value.scale = np.empty(self.blocks(value), object)
        for block in np.ndindex(value.scale.shape):
            value.scale[block] = self.system.variable()
        value.exponents = {
            (d, label, leaf.uid): self.splits.variable() for d, label, leaf in self.cells(value)
        }

    def padding(self, value: Value) -> list[tuple[int, int]]:
        """All (dimension, leaf uid) of a value where some new units copy nothing."""
        if not self.padded:
            return []
        found = {(d, leaf.uid) for d, _, leaf in self.cells(value) if leaf.uid in self.padded}
        return sorted(found)

    def is_zero(self, value: Value) -> bool:
        if value.const is None:
            return False
        return all(c.uniform is not None and not np.any(c.uniform) for c in value.const)

    def need(
        self,
        condition: Condition,
        pair: EquationPair,
        axes: Sequence[Axis],
        readers: Sequence[int] = (),
    ) -> None:
        """Notes a condition on what new units hold."""
        self.needs.append(Need(condition, readers, pair, axes))

    def zero_at(self, value: Value, out: Value, d: int, uid: int) -> Condition | None:
        """When an operand, aligned with the result, is 0 in the new units of a leaf."""
        if self.is_zero(value):
            return ALWAYS
        if not value.axes or find(value.axes[d]) is not find(out.axes[d]):
            return None
        return value.zeros.get((d, uid))

    def refuse_padding(
        self, pair: EquationPair, value: Value, dims: Sequence[int] | None = None
    ) -> None:
        """Refuses where units that hold nothing would be looked at."""
        for d, _ in self.padding(value):
            if (dims is None or d in dims) and value.const is None:
                pair.fail(
                    f"units that copy nothing would enter `{pair.name}`",
                    axes=[value.axes[d]],
                    hint="grow this axis to a multiple, or grow another axis",
                )

    def watch(self, value: Value, dims: Sequence[int]) -> None:
        """Notes that the copies along these dimensions are looked at other than by a sum."""
        for d, _, leaf in self.cells(value):
            if d in dims:
                self.watched.add(leaf.uid)

    def read(self, value: Value) -> Value:
        if value.scale is None:
            if value.const is None:
                raise AssertionError("a value is read before it is made")
            value.scale = self.read_constant(value)
            value.exponents = {}
            value.zeros = {
                (d, uid): ALWAYS
                for d, uid in self.padding(value)
                if not np.any(np.take(value.const[1].value, self._empty(value, d, uid), axis=d))
            }
        return value

    def _empty(self, value: Value, d: int, uid: int) -> np.ndarray:
        """The places along dimension d that are new units of a leaf."""
        (leaf,) = {leaf for e, _, leaf in self.cells(value) if e == d and leaf.uid == uid}
        place = coordinate(value.axes[d], leaf, of_big=True)
        assert leaf.source is not None
        return np.flatnonzero((place >= 0) & (leaf.source[np.maximum(place, 0)] < 0))

    # -- requirements -------------------------------------------------------------------------

    def same_scale(
        self, pair: EquationPair, a: Expr | None, b: Expr | None, axes=()
    ) -> Expr | None:
        """Requires two scales to agree; returns it (`None` fits everything)."""
        if a is None or b is None:
            return b if a is None else a
        if a is b or a == b:
            return a
        residual = self.system.require_zero(plus(a, b, -1.0))
        if residual:
            grown = self.grown_before(pair)
            factor = math.exp(abs(residual))
            pair.fail(
                f"`{pair.name}` would see its operands change by factors that differ by "
                f"{factor:.6g} when they must agree, and no scaling of the parameters mends it",
                axes=[*axes, *grown],
                hint=hint_of(pair),
            )
        return a if len(a) <= len(b) else b

    def grown_before(self, pair: EquationPair) -> list[Axis]:
        """The axes that grow at an equation, or at the nearest one before it where one does."""
        todo, seen = [pair], set()
        while todo:
            at = todo.pop(0)
            grown = [x for v in [*at.ins, *at.outs] for x in v.axes if not find(x).fixed]
            if grown:
                return grown
            for v in at.ins:
                producer = self.producers.get(id(v))
                if producer is not None and id(producer) not in seen:
                    seen.add(id(producer))
                    todo.append(producer)
        return []

    def pin(self, pair: EquationPair, value: Value, *, also_exponents: bool = True) -> None:
        """Requires a value to be the plain duplicate."""
        self.read(value)
        for expr in value.scale.flat:
            self.same_scale(pair, expr, ZERO)
        if also_exponents:
            self.pin_exponents(value)

    def pin_exponents(self, value: Value) -> None:
        for expr in self.read(value).exponents.values():
            if expr:
                self.splits.require_zero(expr)

    def scalar(self, expr: Expr | None) -> np.ndarray:
        """The scale of a value without axes."""
        out = np.empty((), object)
        out[()] = expr
        return out

    def same_exponent(self, a: Expr, b: Expr) -> Expr:
        if a != b:
            self.splits.require_zero(plus(a, b, -1.0))
        return a

    def uniform(self, pair: EquationPair, value: Value, d: int) -> None:
        """Requires one scale along dimension d."""
        self.read(value)
        n = value.scale.shape[d]
        if n == 1:
            return
        moved = np.moveaxis(value.scale, d, 0)
        for rest in np.ndindex(moved.shape[1:]):
            known: Expr | None = None
            for label in range(n):
                known = self.same_scale(pair, known, moved[(label, *rest)])
            for label in range(n):
                if moved[(label, *rest)] is not None:
                    moved[(label, *rest)] = known

    # -- what equations do --------------------------------------------------------------------

    def elementwise(
        self, pair: EquationPair, operands: Sequence[Value], out: Value, powers: Sequence[float]
    ) -> None:
        """out = Π operandᵖ, element by element; the axes have been unified."""
        out.scale = np.empty(self.blocks(out), object)
        for v in operands:
            self.read(v)
        for block in np.ndindex(out.scale.shape):
            total: Expr | None = ZERO
            for v, p in zip(operands, powers, strict=True):
                expr = v.scale[self._aligned(v, out, block)]
                total = None if expr is None or total is None else plus(total, expr, p)
            out.scale[block] = total
        out.exponents = {}
        for d, label, leaf in self.cells(out):
            total = ZERO
            for v, p in zip(operands, powers, strict=True):
                total = plus(total, self._exponent(v, out, d, label, leaf), p)
            if total:
                out.exponents[d, label, leaf.uid] = total
        out.zeros = {}
        for d, uid in self.padding(out):
            found = [self.zero_at(v, out, d, uid)
                     for v, p in zip(operands, powers, strict=True) if p > 0]  # fmt: skip
            if (either := conditions.either(c for c in found if c is not None)) is not None:
                out.zeros[d, uid] = either
        for v, p in zip(operands, powers, strict=True):
            if p < 0 and signs.sign(v) != signs.POSITIVE:
                self.refuse_padding(pair, v)

    def agree(self, pair: EquationPair, operands: Sequence[Value], out: Value) -> None:
        """out takes its elements from, or adds, operands that must agree in scale and split."""
        out.scale = np.empty(self.blocks(out), object)
        for v in operands:
            self.read(v)
        for block in np.ndindex(out.scale.shape):
            known: Expr | None = None
            for v in operands:
                known = self.same_scale(pair, known, v.scale[self._aligned(v, out, block)])
            out.scale[block] = known
        speaking = [v for v in operands if any(e is not None for e in v.scale.flat)]
        out.exponents = {}
        for d, label, leaf in self.cells(out):
            exprs = [self._exponent(v, out, d, label, leaf) for v in speaking]
            for other in exprs[1:]:
                self.same_exponent(exprs[0], other)
            if exprs and exprs[0]:
                out.exponents[d, label, leaf.uid] = exprs[0]
        out.zeros = {}
        for d, uid in self.padding(out):
            every = conditions.both(self.zero_at(v, out, d, uid) for v in operands)
            if every is not None:
                out.zeros[d, uid] = every

    def _aligned(self, v: Value, out: Value, block: tuple[int, ...]) -> tuple[int, ...]:
        if not v.axes:
            return ()
        return tuple(
            label if v.scale.shape[d] == out.scale.shape[d] else 0 for d, label in enumerate(block)
        )

    def _exponent(self, v: Value, out: Value, d: int, label: int, leaf: Axis) -> Expr:
        if not v.axes or find(v.axes[d]) is not find(out.axes[d]):
            return ZERO
        return v.exponents.get((d, label, leaf.uid), ZERO)

    def power(self, pair: EquationPair, p: float) -> None:
        """out = operandᵖ for p ≠ 1: scales follow, splits do not."""
        self.pin_exponents(pair.ins[0])
        self.elementwise(pair, pair.ins[:1], pair.outs[0], [p])

    def run(self, pairs: Sequence[EquationPair]) -> None:
        for pair in pairs:
            for v in pair.outs:
                v.means = {}
            self.analysis.rule(pair.name, pair.ins).scales(self, pair)
            if self.padded and len(pair.outs) == 1:
                pair.outs[0].sign = signs.of_result(pair)
            for v in pair.outs:
                self.producers[id(v)] = pair


def hint_of(pair: EquationPair) -> str:
    if pair.name in ("log", "logsumexp", "log1p"):
        return "a log-sum over an axis that grows counts the copies: keep that axis as it is"
    return (
        "a sum over copies is k-fold and a non-linear function of it is not the old one: use a "
        "mean (or a norm) there, or let a parameter read the axis, or keep that axis as it is"
    )
