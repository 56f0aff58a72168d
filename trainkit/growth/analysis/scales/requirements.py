"""Requirements on scales, share exponents and padding, as rules state them."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from trainkit.growth.analysis.conflicts import Refused
from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.analysis.scales import padding as conditions
from trainkit.growth.analysis.scales.padding import Condition, Need
from trainkit.growth.analysis.scales.unknowns import Unknowns
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.linear import ZERO, Expr, plus
from trainkit.growth.axes.queries import grown_leaves


class Requirements(Unknowns):
    """Adds equations for the unknowns."""

    def need(
        self,
        condition: Condition,
        pair: EquationPair,
        axes: Sequence[Axis],
        readers: Sequence[int] = (),
    ) -> None:
        """Adds a condition on padding units."""
        self.needs.append(Need(condition, readers, pair, axes))

    def refuse_padding(
        self, pair: EquationPair, value: Value, dims: Sequence[int] | None = None
    ) -> None:
        """Refuses if the value has padding units along these dimensions (by default, all)."""
        for d, _ in self.padding(value):
            if (dims is None or d in dims) and value.const is None:
                pair.fail(
                    f"padding units (which copy no old unit) would enter `{pair.name}`",
                    axes=[value.axes[d]],
                    hint=multiple_or_other(value.axes[d]),
                )

    def needs_mean(self, pair: EquationPair, value: Value, affine: bool) -> bool:
        """Whether a value is positive in padding units because a vector holds its mean there.

        Then adds the condition that it does.

        Args:
          affine: whether only an affine function of the vector will do (its root is positive too,
            but it may be negative itself, and then is no divisor).
        """
        known = self.statistics.of(value)
        if known.parameter < 0 or affine != known.affine:
            return False
        axis = self.analysis.params[known.parameter][1].axes[0]
        for leaf in grown_leaves(axis):
            if leaf.uid in self.padded:
                condition = conditions.of(known.parameter, 0, leaf.uid, conditions.MEAN)
                self.need(condition, pair, [axis])
        return True

    def meeting(self, value: Value) -> list[int]:
        """The dimensions along which padding units may affect old ones."""
        return [d for d, uid in self.padding(value) if uid not in self.separate]

    def mark_order_sensitive(self, value: Value, dims: Sequence[int]) -> None:
        """Notes that an equation other than a sum depends on the copies along these dimensions."""
        for d, _, leaf in self.cells(value):
            if d in dims:
                self.order_sensitive.add(leaf.uid)

    def same_scale(
        self, pair: EquationPair, a: Expr | None, b: Expr | None, axes=()
    ) -> Expr | None:
        """Requires two scales to be equal, and returns one (`None` fits every scale)."""
        if a is None or b is None:
            return b if a is None else a
        if a is b or a == b:
            return a
        expr = plus(a, b, -1.0)
        self.required.append((expr, pair))
        residual = self.system.require_zero(expr)
        if residual:
            grown = self.grown_before(pair)
            factor = math.exp(abs(residual))
            wrong = self.analysis.conflict(
                f"operands of `{pair.name}` must change by the same factor, but their factors "
                f"differ by {factor:.6g}, and no scaling of the parameters can remove that",
                "scales",
                [*axes, *grown],
                pair,
                hint=hint_of(pair),
            )
            nearby = tuple(self.others_before(pair, wrong.leaves))
            raise Refused(dataclasses.replace(wrong, nearby=nearby))
        return a if len(a) <= len(b) else b

    def grown_before(self, pair: EquationPair) -> list[Axis]:
        """The axes that grow at an equation, or at the nearest earlier equation with such axes."""
        return next((axes for at in self._earlier(pair) if (axes := _grown(at))), [])

    def others_before(self, pair: EquationPair, known: Sequence[Axis]) -> list[Axis]:
        """The nearest leaves besides `known` ones: a factor may come from a sum over them."""
        seen = {leaf.uid for leaf in known}
        for at in self._earlier(pair):
            leaves = [leaf for axis in _grown(at) for leaf in grown_leaves(axis)]
            if found := [leaf for leaf in leaves if leaf.uid not in seen]:
                return list(dict.fromkeys(found))
        return []

    def _earlier(self, pair: EquationPair) -> Iterator[EquationPair]:
        """An equation and all that it depends on, the nearest first."""
        todo, seen = deque([pair]), {id(pair)}
        while todo:
            yield (at := todo.popleft())
            for v in at.ins:
                producer = self.producers.get(id(v))
                if producer is not None and id(producer) not in seen:
                    seen.add(id(producer))
                    todo.append(producer)

    def pin(self, pair: EquationPair, value: Value, *, also_exponents: bool = True) -> None:
        """Requires a value to be a plain copy: scale 1, not split over copies."""
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
        """Requires integers and booleans to be plain copies, without means."""
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


def _grown(pair: EquationPair) -> list[Axis]:
    """The axes of an equation's operands and results that grow."""
    return [axis for v in [*pair.ins, *pair.outs] for axis in v.axes if not find(axis).fixed]


def multiple_or_other(axis: Axis) -> str:
    """What to do about an axis whose new units can neither be copies nor be padding units."""
    grown = [leaf for leaf in grown_leaves(axis) if leaf.small and leaf.big % leaf.small]
    if not grown:
        return "leave out append= for this axis, if it is there, or grow another axis"
    sizes = " and ".join(f"{x.small} to {x.big // x.small * x.small + x.small}" for x in grown)
    return f"grow it from {sizes}, a multiple, or grow another axis"


def hint_of(pair: EquationPair) -> str:
    for v in pair.ins:
        a, b = (None, None) if v.const is None else (c.uniform for c in v.const)
        if a is not None and b is not None and a != b:
            a, b = np.asarray(a).item(), np.asarray(b).item()  # others have no such format
            return f"use one number in both models: the small one has {a:.6g}, the big one {b:.6g}"
    if pair.name in ("log", "logsumexp", "log1p"):
        return "a log-sum over an axis that grows counts the copies: do not grow that axis"
    return (
        "a sum over k copies is k times as large, which changes a non-linear function of it: use a "
        "mean (or a norm) there, or contract the axis with a parameter, or do not grow that axis"
    )
