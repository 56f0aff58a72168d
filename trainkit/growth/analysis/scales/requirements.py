"""What equations require of scales, share exponents and padding: equality, 0, or to be refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.analysis.scales.padding import Condition, Need
from trainkit.growth.analysis.scales.unknowns import Unknowns
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.linear import ZERO, Expr, plus


class Requirements(Unknowns):
    """Equations on the unknowns, as the rules of primitives state them."""

    def need(
        self,
        condition: Condition,
        pair: EquationPair,
        axes: Sequence[Axis],
        readers: Sequence[int] = (),
    ) -> None:
        """Notes a condition on what new units hold."""
        self.needs.append(Need(condition, readers, pair, axes))

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

    def meeting(self, value: Value) -> list[int]:
        """The dimensions where units that hold nothing may meet old ones."""
        return [d for d, uid in self.padding(value) if uid not in self.separate]

    def watch(self, value: Value, dims: Sequence[int]) -> None:
        """Notes that the copies along these dimensions are looked at other than by a sum."""
        for d, _, leaf in self.cells(value):
            if d in dims:
                self.watched.add(leaf.uid)

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

    def whole_numbers(self, value: Value) -> None:
        """Whole numbers and bits are copied: they take no factor, no share, and hold no mean."""
        for expr in value.scale.flat:
            self.system.require_zero(expr)
        self.pin_exponents(value)
        value.means = {}

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


def hint_of(pair: EquationPair) -> str:
    if pair.name in ("log", "logsumexp", "log1p"):
        return "a log-sum over an axis that grows counts the copies: keep that axis as it is"
    return (
        "a sum over copies is k-fold and a non-linear function of it is not the old one: use a "
        "mean (or a norm) there, or let a parameter read the axis, or keep that axis as it is"
    )
