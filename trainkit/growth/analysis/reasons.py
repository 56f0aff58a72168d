"""Why a factor is not the usual one: the equations that would not hold with the usual factors.

The usual factor of a parameter is 1/copies on the axes over which it is split, and 1 elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.shares import Shares
from trainkit.growth.axes.linear import Expr
from trainkit.growth.ir.source_lines import where

ROUNDING = 1e-6


def usual(scales: ScalePropagation, shares: Shares, i: int, block: tuple[int, ...]) -> float:
    """The log of the usual factor of one segment of a parameter."""
    total = 0.0
    for d, label in enumerate(block):
        for leaf in scales.labels(scales.analysis.params[i][1].axes[d])[1][label]:
            if shares.chosen[i].get((d, label, leaf.uid)):
                total -= scales.factors[leaf.uid] or 0.0
    return total


def reasons(
    scales: ScalePropagation, shares: Shares, evaluate: Callable[[Expr], float]
) -> dict[int, str]:
    """Parameter -> why its factor is not the usual one, for those that have another."""
    found = [
        i
        for i, (_, value) in enumerate(scales.analysis.params)
        for block in np.ndindex(value.scale.shape)
        if abs(evaluate(value.scale[block]) - usual(scales, shares, i, block)) > ROUNDING
    ]
    return _Reasons(scales, shares).of(list(dict.fromkeys(found))) if found else {}


class _Reasons:
    def __init__(self, scales: ScalePropagation, shares: Shares):
        self.scales = scales
        self.values = {0: 1.0}  # of variables, if every factor is the usual one
        self.owner: dict[int, int] = {}
        for i, (base, more) in enumerate(scales.param_scale):
            first = (0,) * len(scales.analysis.params[i][1].axes)
            start = usual(scales, shares, i, first)
            self._own(i, base, start)
            for (d, label), expr in more.items():
                block = (*first[:d], label, *first[d + 1 :])
                self._own(i, expr, usual(scales, shares, i, block) - start)

    def _own(self, i: int, expr: Expr, value: float) -> None:
        (variable,) = expr
        self.values[variable], self.owner[variable] = value, i

    def _value(self, variable: int) -> float:
        if variable not in self.values:  # a loop's carry, which its equation determines
            self.values[variable] = self._sum(self.scales.system.pivots.get(variable, {}))
        return self.values[variable]

    def _sum(self, expr: Expr) -> float:
        return sum(c * self._value(v) for v, c in expr.items())

    def of(self, parameters: list[int]) -> dict[int, str]:
        """The reason of each, from the first equation that would not hold."""
        found: dict[int, str] = {}
        others: dict[int, str] = {}
        for expr, at in self.scales.required:
            about = dict.fromkeys(self.owner[v] for v in expr if v in self.owner)
            wanted = [i for i in about if i in parameters and i not in found]
            if not wanted:
                continue
            residual = self._sum(expr)
            if abs(residual) > ROUNDING:
                found |= dict.fromkeys(wanted, self._without(at, residual))
            elif len(about) > 1:
                others |= {i: self._matching(at, i, list(about)) for i in wanted if i not in others}
        return {i: found.get(i) or others.get(i, "") for i in parameters}

    def _place(self, at: object) -> str:
        small = getattr(at, "small", None)
        return f"result {at}" if small is None else f"what enters `{small.name}` at {where(small)}"

    def _without(self, at: object, residual: float) -> str:
        factor = math.exp(abs(residual))
        return (
            f"with 1/copies alone, {self._place(at)} would change by a factor of {factor:.6g}, "
            "and this leaf makes up for it"
        )

    def _matching(self, at: object, i: int, about: list[int]) -> str:
        names = [self.scales.analysis.params[j][0] for j in about if j != i]
        return f"it must match the factor of {', '.join(names[:3])} in {self._place(at)}"
