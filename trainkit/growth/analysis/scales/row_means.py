"""Padding units that hold the mean of the old units, which keep a LayerNorm exact at any width.

After n units x with mean m follow n′ − n units that equal m. The mean stays m, the padding units
are 0 after it is subtracted, and Σ(x − m)² is unchanged. It is divided by n′ instead of n, so the
variance is multiplied by r = n/n′. Scaling the stream by √(1/r) compensates, with unchanged ε.

Which values hold their mean in padding units is propagated like zeros. Parameters can be made so.
Sums, contractions over other axes, moved elements, and products with a factor that is constant
along the axis keep it. Nothing else does.

Where the axis is a factor of a merged one (actions × atoms), the mean is that over the axis, at
each place along the other factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair, JointProgram
from trainkit.growth.analysis.scales import padding
from trainkit.growth.analysis.scales.padding import Condition
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.queries import around, grown_leaves
from trainkit.growth.ir.dataflow import Facts, Lattice
from trainkit.growth.ir.primitives import NONE, traits

Means = dict[tuple[int, int], Condition]
Producers = Mapping[int, EquationPair]
Constants = Facts[frozenset[int]]


def keys(value: Value, rows: frozenset[int]) -> list[tuple[int, int]]:
    """(dimension, leaf uid) of axes of a value whose padding units may hold the mean."""
    return [
        (d, leaf.uid)
        for d, axis in enumerate(value.axes if rows else ())
        for leaf in grown_leaves(axis)
        if leaf.uid in rows and around(axis, leaf) is not None
    ]


def moves_linearly(pair: EquationPair) -> bool:
    """Whether the results are linear in the moved elements."""
    return pair.name == "scan" or traits(pair).linear != NONE


def constants(joint: JointProgram) -> Constants:
    """The dimensions along which values are constant, in both programs."""
    return joint.facts(_CONSTANT, [frozenset[int]()] * len(joint.values))


def constant_along(facts: Constants, value: Value, d: int) -> bool:
    """Whether a value is constant along dimension d, in both programs."""
    return _is_constant(value, facts.of(value), d)


def _is_constant(value: Value, dims: frozenset[int], d: int) -> bool:
    return not value.axes or _sizes(value, d) == (1, 1) or d in dims


def _constant(v: Value) -> frozenset[int] | None:
    if v.const is None:
        return None
    uniform = all(c.uniform is not None for c in v.const)
    return frozenset(range(len(v.axes)) if uniform else ())


def _transfer(pair: EquationPair, facts: list[frozenset[int]]) -> frozenset[int]:
    rank = len(pair.outs[0].axes)
    if pair.name == "broadcast_in_dim":
        dims, (x,), (known,) = pair.params["broadcast_dimensions"], pair.ins, facts
        varying = {o for d, o in enumerate(dims) if not _is_constant(x, known, d)}
        return frozenset(range(rank)) - varying
    if not traits(pair).elementwise:
        return frozenset()
    operands = list(zip(pair.ins, facts, strict=True))
    return frozenset(d for d in range(rank) if all(_is_constant(*x, d) for x in operands))


_CONSTANT: Lattice[frozenset[int]] = Lattice(
    top=frozenset(),
    join=lambda a, b: a & b,
    constant=_constant,
    transfer=_transfer,
    row=lambda dims: frozenset(d - 1 for d in dims if d),
    stacked=lambda dims: frozenset(d + 1 for d in dims),
)


def of_sum(
    constants: Constants, operands: Sequence[Value], out: Value, rows: frozenset[int]
) -> Means:
    """The means of a sum, or of a selection that is constant along the axis."""

    def one(v: Value, d: int, uid: int) -> Condition | None:
        return padding.ALWAYS if constant_along(constants, v, d) else v.means.get((d, uid))

    result = {key: padding.both(one(v, *key) for v in operands) for key in keys(out, rows)}
    return {key: c for key, c in result.items() if c is not None}


def of_product(
    constants: Constants, operands: Sequence[Value], out: Value, rows: frozenset[int]
) -> Means:
    """The means of a product in which only one factor varies along the axis."""
    result: Means = {}
    for d, uid in keys(out, rows):
        varying = [v for v in operands if not constant_along(constants, v, d)]
        if len(varying) == 1 and (d, uid) in varying[0].means:
            result[d, uid] = varying[0].means[d, uid]
    return result


def taken_away(producers: Producers, pair: EquationPair, rows: frozenset[int]) -> Means:
    """For an equation x − mean(x): where padding units become 0, and under which condition."""
    x, mean = pair.ins
    return {
        (d, uid): x.means[d, uid]
        for d, uid in keys(x, rows)
        if find(x.axes[d]).uid == uid  # the mean over a merged axis is another one
        and (d, uid) in x.means
        and _is_mean(producers, mean, x, d)
    }


def _is_mean(producers: Producers, value: Value, x: Value, d: int) -> bool:
    """Whether a value is the mean of x along dimension d, broadcast along it."""
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
        elif not traits(pair).same:
            return False
        value = first
    return False


def _sizes(value: Value, d: int) -> tuple[int, int]:
    return value.small[d], value.big[d]


def _plain(producers: Producers, value: Value) -> Value:
    """The value before conversions of precision and copies."""
    while (pair := producers.get(id(value))) is not None and traits(pair).same:
        value = pair.ins[0]
    return value


def _divides_by(pair: EquationPair, axis: Axis) -> bool:
    """Whether an equation divides its first operand by the size of the axis, in both programs."""
    const = pair.ins[1].const
    if const is None:
        return False
    for c, n in zip(const, (axis.small, axis.big), strict=True):
        if c.number is None:
            return False
        ratio = c.number / n if pair.name == "div" else c.number * n
        if not np.isclose(ratio, 1.0, rtol=1e-2 / n, atol=0.0):
            return False
    return True
