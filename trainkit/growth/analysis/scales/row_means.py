"""New units that hold the mean of the old ones: what keeps a LayerNorm exact at any width.

Behind n units x with mean m come n′ − n units that equal m. The mean stays m, the new units are 0
when it is taken away, and Σ(x − m)² is what it was: normalised by n′ instead of n it has shrunk by
r = n/n′, which a stream that is √(1/r) times as large makes good, with ε as it is.

Which values hold their own mean in new units follows as for zeros: parameters may be made so;
sums, sums of products along other axes and moves keep it, as does a factor that does not vary
along the axis. Nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair
from trainkit.growth.analysis.scales import padding
from trainkit.growth.analysis.scales.padding import Condition
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find

Means = dict[tuple[int, int], Condition]
Producers = Mapping[int, EquationPair]

# Moves that are linear, and keep every place's units together.
MOVES = {
    "reshape", "transpose", "broadcast_in_dim", "squeeze", "slice", "split", "pad",
    "concatenate", "stack", "tile", "gather", "dynamic_slice", "rev", "scan", "reduce_window_sum",
    "cumsum",
}  # fmt: skip
_PASSED = {"convert_element_type", "stop_gradient"}
_ELEMENTWISE = {
    *_PASSED, "mul", "add", "sub", "div", "neg", "max", "min", "exp", "logistic", "tanh", "sqrt",
    "rsqrt", "square", "select_n", "and", "or", "not", "lt", "gt", "le", "ge", "eq", "ne",
}  # fmt: skip


def keys(value: Value, rows: frozenset[int]) -> list[tuple[int, int]]:
    """(dimension, leaf) of a value's plain axes whose new units may hold the mean of the old."""
    found = [(d, find(a).uid) for d, a in enumerate(value.axes)] if rows else []
    return [key for key in found if key[1] in rows]


def constant_along(producers: Producers, value: Value, d: int, depth: int = 8) -> bool:
    """Whether a value is the same for all units along dimension d, in both programs."""
    if not value.axes or (value.small[d], value.big[d]) == (1, 1):
        return True
    if value.const is not None:
        return all(c.uniform is not None for c in value.const)
    pair = producers.get(id(value))
    if pair is None or not depth:
        return False
    if pair.name == "broadcast_in_dim":
        dims = pair.params["broadcast_dimensions"]
        return d not in dims or constant_along(producers, pair.ins[0], dims.index(d), depth - 1)
    return pair.name in _ELEMENTWISE and all(
        constant_along(producers, v, d, depth - 1) for v in pair.ins
    )


def of_sum(
    producers: Producers, operands: Sequence[Value], out: Value, rows: frozenset[int]
) -> Means:
    """The means of a sum (or of a choice that does not vary along the axis)."""

    def one(v: Value, d: int, uid: int) -> Condition | None:
        return padding.ALWAYS if constant_along(producers, v, d) else v.means.get((d, uid))

    found = {key: padding.both(one(v, *key) for v in operands) for key in keys(out, rows)}
    return {key: c for key, c in found.items() if c is not None}


def of_product(
    producers: Producers, operands: Sequence[Value], out: Value, rows: frozenset[int]
) -> Means:
    """The means of a product of which one factor, the first, may vary along the axis."""
    result: Means = {}
    for d, uid in keys(out, rows):
        varying = [v for v in operands if not constant_along(producers, v, d)]
        if len(varying) == 1 and (d, uid) in varying[0].means:
            result[d, uid] = varying[0].means[d, uid]
    return result


def taken_away(producers: Producers, pair: EquationPair, rows: frozenset[int]) -> Means:
    """Where an equation x − mean(x) leaves 0 in new units, and when."""
    x, mean = pair.ins
    return {
        (d, uid): x.means[d, uid]
        for d, uid in keys(x, rows)
        if (d, uid) in x.means and _is_mean(producers, mean, x, d)
    }


def _is_mean(producers: Producers, value: Value, x: Value, d: int) -> bool:
    """Whether a value is the mean of x along dimension d, next to x's other dimensions."""
    if len(value.axes) != len(x.axes):
        return False
    place: list[int | None] = list(range(len(x.axes)))  # where x's dimensions are in `value`
    divided = False
    while (pair := producers.get(id(value))) is not None:
        first = pair.ins[0]
        if pair.name == "broadcast_in_dim":
            dims = pair.params["broadcast_dimensions"]
            kept = [_sizes(first, i) == _sizes(value, o) for i, o in enumerate(dims)]
            place = [dims.index(p) if p in dims and kept[dims.index(p)] else None for p in place]
        elif pair.name in ("reshape", "squeeze"):
            old, new = ([i for i in range(len(v.axes)) if _sizes(v, i) != (1, 1)]
                        for v in (first, value))  # fmt: skip
            if [_sizes(first, i) for i in old] != [_sizes(value, o) for o in new]:
                return False
            moved = dict(zip(new, old, strict=True))
            place = [moved.get(p) if p is not None else None for p in place]
        elif pair.name in ("div", "mul") and not divided:
            if not _divides_by(pair, find(x.axes[d])):
                return False
            divided = True
        elif pair.name == "reduce_sum":
            kept_dims = [e for e in range(len(first.axes)) if e not in pair.params["axes"]]
            return (
                divided
                and tuple(pair.params["axes"]) == (d,)
                and _plain(producers, first) is _plain(producers, x)
                and all(
                    _sizes(x, e) == (1, 1) or (p is not None and kept_dims[p] == e)
                    for e, p in enumerate(place)
                    if e != d
                )
            )
        elif pair.name not in _PASSED:
            return False
        value = first
    return False


def _sizes(value: Value, d: int) -> tuple[int, int]:
    return value.small[d], value.big[d]


def _plain(producers: Producers, value: Value) -> Value:
    """A value before it was converted or copied."""
    while (pair := producers.get(id(value))) is not None and pair.name in _PASSED:
        value = pair.ins[0]
    return value


def _divides_by(pair: EquationPair, axis: Axis) -> bool:
    """Whether an equation divides its first operand by the size of the axis, in both programs."""
    const = pair.ins[1].const
    if const is None:
        return False
    for c, n in zip(const, (axis.small, axis.big), strict=True):
        if c.uniform is None:
            return False
        value = float(c.uniform)
        size = value if pair.name == "div" else 1.0 / value if value else 0.0
        if not np.isclose(size, n, rtol=1e-2 / n, atol=0.0):
            return False
    return True
