"""Scales and splits carried through the joint program, equation by equation; see `unknowns`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from trainkit.growth.analysis.conflicts import guarded
from trainkit.growth.analysis.joint_program import EquationPair, JointProgram
from trainkit.growth.analysis.scales import padding as conditions
from trainkit.growth.analysis.scales.requirements import Requirements
from trainkit.growth.analysis.scales.signs import POSITIVE
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import Layouts
from trainkit.growth.axes.linear import ZERO, Expr, plus
from trainkit.growth.errors import Conflict


class ScalePropagation(Requirements):
    """What equations do to scales, share exponents and padding: the rules of primitives call it."""

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
            zeros = [self.zero_at(v, out, d, uid)
                     for v, p in zip(operands, powers, strict=True) if p > 0]  # fmt: skip
            if (either := conditions.either(c for c in zeros if c is not None)) is not None:
                out.zeros[d, uid] = either
        for v, p in zip(operands, powers, strict=True):
            if p < 0 and self.signs.of(v) != POSITIVE:
                self.refuse_padding(pair, v, self.meeting(v))

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
            for v in pair.outs:
                self.producers[id(v)] = pair


def propagate(joint: JointProgram, layouts: Layouts) -> ScalePropagation | Conflict:
    """Carries the unknowns of parameters through all equations, under one choice of layouts.

    What an earlier propagation wrote on the program's values is overwritten.

    Returns:
      The equations on the unknowns, or why they have no solution.
    """
    scales = ScalePropagation(joint, layouts)
    wrong = guarded("scales", _carry, scales)
    return _check_results(scales) if wrong is None else wrong


def _carry(scales: ScalePropagation) -> None:
    joint = scales.joint
    for v in joint.everything():
        if v.const is not None:
            v.scale = None
    for i, value in enumerate(joint.values):
        if i >= len(joint.analysis.params):
            scales.plain(value)
            continue
        scales.parameter(value)
        if not jax.dtypes.issubdtype(value.dtype, np.inexact):
            scales.whole_numbers(value)
    scales.run(joint.pairs)
    for out in joint.outs:
        scales.read(out)


def _check_results(scales: ScalePropagation) -> ScalePropagation | Conflict:
    """Results are what they were: their scales are 1."""
    joint = scales.joint
    for i, out in enumerate(joint.outs):
        for expr in out.scale.flat:
            if expr is not None and scales.system.require_zero(expr):
                producer = scales.producers.get(id(out))
                return joint.analysis.conflict(
                    f"result {i} would change by a factor, and no scaling of the parameters "
                    "mends it",
                    "scales",
                    out.axes if producer is None else scales.grown_before(producer),
                    producer,
                    alone=True,
                    hint="let a parameter read the axis that is summed over, or use a mean there",
                )
    return scales
