"""Propagation of scales and shares through the joint program; see `unknowns`."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from trainkit.growth.analysis.conflicts import catch_refusal
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
    """The state of propagation, and the operations that rules of primitives call."""

    def elementwise(
        self, pair: EquationPair, operands: Sequence[Value], out: Value, powers: Sequence[float]
    ) -> None:
        """out = Π operandᵖ, element by element, with unified axes."""
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
        # Without axes of size 1, which are broadcast; scalars have no axes at all.
        same = [[(d,) if find(a) is find(out.axes[d]) else None for d, a in enumerate(v.axes)]
                for v in operands]  # fmt: skip
        self.multiplied(list(zip(operands, same, strict=True)))
        divides = any(p < 0 for p in powers)
        for d, uid in self.padding(out):
            if divides and uid in self.separate:
                continue  # it may be 0 divided by 0
            zeros = [self.zero_at(v, out, d, uid)
                     for v, p in zip(operands, powers, strict=True) if p > 0]  # fmt: skip
            if (either := conditions.either(c for c in zeros if c is not None)) is not None:
                out.zeros[d, uid] = either
        for v, p in zip(operands, powers, strict=True):
            # A root of an affine function is positive, and so is what a root is taken of.
            unknown = p < 0 and self.signs.of(v) != POSITIVE and self.meeting(v)
            if unknown and not self.needs_mean(pair, v, affine=pair.name == "rsqrt"):
                self.refuse_padding(pair, v, self.meeting(v))

    def agree(self, pair: EquationPair, operands: Sequence[Value], out: Value) -> None:
        """out selects from, or adds, operands that must have equal scales and shares."""
        out.scale = np.empty(self.blocks(out), object)
        for v in operands:
            self.read(v)
        for block in np.ndindex(out.scale.shape):
            known: Expr | None = None
            for v in operands:
                known = self.same_scale(pair, known, v.scale[self._aligned(v, out, block)])
            out.scale[block] = known
        scaled = [v for v in operands if any(e is not None for e in v.scale.flat)]
        out.exponents = {}
        for d, label, leaf in self.cells(out):
            exprs = [self._exponent(v, out, d, label, leaf) for v in scaled]
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
        """out = operandᵖ for p ≠ 1. The operand must not be split over copies."""
        self.pin_exponents(pair.ins[0])
        self.elementwise(pair, pair.ins[:1], pair.outs[0], [p])

    def run(self, pairs: Sequence[EquationPair]) -> None:
        for pair in pairs:
            for v in pair.outs:
                v.means = {}
            self.analysis.rule(pair.name, pair.ins).scales(self, pair)
            for v in pair.outs:
                self.fill_hollow(v)
                self.producers[id(v)] = pair


def propagate(joint: JointProgram, layouts: Layouts) -> ScalePropagation | Conflict:
    """Propagates the unknowns of parameters through all equations, under one choice of layouts.

    Overwrites results of an earlier propagation in the program's values.

    Returns:
      The linear equations for the unknowns, or the conflict if they have no solution.
    """
    scales = ScalePropagation(joint, layouts)
    wrong = catch_refusal("scales", _carry, scales)
    return _check_results(scales) if wrong is None else wrong


def _carry(scales: ScalePropagation) -> None:
    joint = scales.joint
    for v in joint.all_values():
        if v.const is not None:
            v.scale = None
    for i, value in enumerate(joint.values):
        if i >= len(joint.analysis.params):
            scales.plain(value)
            number = i - len(joint.analysis.params)
            if number < len(joint.analysis.inputs) and joint.analysis.inputs[number].zero:
                value.zeros = dict.fromkeys(scales.padding(value), conditions.ALWAYS)
            continue
        scales.parameter(value)
        if not jax.dtypes.issubdtype(value.dtype, np.inexact):
            scales.whole_numbers(value)
    scales.run(joint.pairs)
    for out in joint.outs:
        scales.read(out)


def _check_results(scales: ScalePropagation) -> ScalePropagation | Conflict:
    """Requires the scales of all results to be 1."""
    joint = scales.joint
    for i, out in enumerate(joint.outs):
        for expr in out.scale.flat:
            if expr is None:
                continue
            scales.required.append((expr, i))
            if scales.system.require_zero(expr):
                producer = scales.producers.get(id(out))
                return joint.analysis.conflict(
                    f"result {i} would change by a factor that no scaling of the parameters can "
                    "remove",
                    "scales",
                    out.axes if producer is None else scales.grown_before(producer),
                    producer,
                    alone=True,
                    hint="contract the summed axis with a parameter, or use a mean there",
                )
    return scales
