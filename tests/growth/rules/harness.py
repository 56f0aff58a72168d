"""Runs the two programs on operands that are expanded as is claimed, and compares the results.

A case is two functions and their operands. Each operand is a small array and what is known of the
big one: its axes with a layout each, a scale a segment, which axes it carries the shares of, and
what it holds in units that copy nothing. What may be known the rules say themselves: operands have
unknowns, and values for these are drawn among all that the rules allow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import lax

from tests.growth.rules import interpreter
from tests.growth.rules.axis_specs import Spec, made, sizes
from trainkit.growth.analysis.claims import Claims, claims
from trainkit.growth.analysis.joint_program import Analysis, Rule, all_pairs
from trainkit.growth.analysis.scales import padding, row_means
from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.analysis.scales.signs import NOT_NEGATIVE, POSITIVE
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, factors, find
from trainkit.growth.axes.layouts import LAYOUTS
from trainkit.growth.axes.queries import coordinates, labels
from trainkit.growth.axes.solvers import choose, nearest
from trainkit.growth.errors import GrowthError, unwrap
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.program import Equation, Program
from trainkit.growth.rules import RULES, UNKNOWN

TOLERANCE = 1e-12  # relative: rounding of a few hundred float64 operations
SCALES = np.log([1.0, 1.0, 2.0, 0.5, 3.0, 0.3])
POWERS = np.log([1.0, 2.0, 0.5])


class Operand(NamedTuple):
    """What a function is called with.

    Attributes:
      axes: one spec a dimension.
      values: how the small array is drawn: normal, positive, within (−1, 1), bool, or a function of
        a generator and a shape.
      kind: "free" has unknown scales, shares and padding, as a parameter or what is made of some;
        "plain" is an input of the model; "const" a constant whose big version is expanded with
        scales; "number" a constant that is one number in each program; "same" the same array in
        both, an index say.
      ratio: of "number", big over small.
    """

    axes: tuple[Spec, ...]
    values: Any = "normal"
    kind: Literal["free", "plain", "const", "number", "same"] = "free"
    dtype: Any = np.float64
    ratio: float = 1.0


class Case(NamedTuple):
    """Two functions and their operands; `seed` draws all that is not in their shapes.

    With `parted`, every result is split along an axis that does not grow: what is claimed has to
    hold of each part.
    """

    small: Callable
    big: Callable
    operands: tuple[Operand, ...]
    seed: int
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    tolerance: float = TOLERANCE
    scales: tuple[float, ...] = tuple(SCALES)
    parted: bool = False


class Verdict(NamedTuple):
    """What was made of a case.

    Attributes:
      refused: the reason, or `None` where a claim was made and held.
      names: the primitives of the program, and of the bodies of its equations.
      grown: whether the results have axes that grow.
    """

    refused: GrowthError | None
    names: frozenset[str] = frozenset()
    grown: bool = False


def draw_values(rng: np.random.Generator, how: Any, shape: tuple[int, ...], dtype) -> np.ndarray:
    if callable(how):
        return np.asarray(how(rng, shape), dtype)
    if how == "bool" or dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(-9, 9, shape).astype(dtype)
    if how == "positive":
        return rng.uniform(0.5, 2.0, shape).astype(dtype)
    if how == "unit":
        return rng.uniform(-0.9, 0.9, shape).astype(dtype)
    if np.issubdtype(dtype, np.complexfloating):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return rng.normal(size=shape).astype(dtype)


def settle(case: Case, rules: dict[str, Rule] | None = None) -> Verdict:
    """Whether the rules refuse; a claim that does not hold fails the test."""
    with np.errstate(all="ignore"):
        return _Trial(case, RULES if rules is None else rules).verdict()


def claimed(case: Case) -> Claims | GrowthError:
    """What is claimed, held against nothing."""
    try:
        return _Trial(case, RULES).claims()
    except GrowthError as error:
        return error


def refusal(case: Case) -> GrowthError:
    """The refusal of a case that must be refused."""
    found = settle(case).refused
    assert found is not None, "this was accepted"
    return found


def in_parts(functions, given, rng: np.random.Generator) -> tuple[Callable, Callable]:
    """Two functions whose results are split at one place of an axis that does not grow."""
    outs = [
        jax.tree.leaves(jax.eval_shape(fn, *xs)) for fn, xs in zip(functions, given, strict=True)
    ]
    cuts = []
    for small, big in zip(*outs, strict=True):
        sizes = enumerate(zip(small.shape, big.shape, strict=True))
        fixed = [d for d, (n, m) in sizes if n == m > 1]
        d = int(rng.choice(fixed)) if fixed else 0
        cuts.append((d, int(rng.integers(1, small.shape[d]))) if fixed else None)

    def parts(fn):
        def cut(*xs):
            made = []
            for out, at in zip(jax.tree.leaves(fn(*xs)), cuts, strict=True):
                sizes = None if at is None else (at[1], out.shape[at[0]] - at[1])
                made += [out] if sizes is None else lax.split(out, sizes, at[0])
            return made

        return cut

    return parts(functions[0]), parts(functions[1])


class _Recorded(Analysis):
    """Remembers the constants it meets."""

    def __init__(self, *rules):
        super().__init__(*rules)
        self.constants: list[Value] = []

    def constant(self, small: Const, big: Const) -> Value:
        self.constants.append(super().constant(small, big))
        return self.constants[-1]


class _Trial:
    def __init__(self, case: Case, rules: dict[str, Rule]):
        self.case = case
        self.rng = np.random.default_rng(case.seed)
        self.analysis = _Recorded(rules, UNKNOWN)
        self.smalls: list[np.ndarray] = []
        self.values: list[Value] = []
        self.bigs: dict[int, np.ndarray] = {}
        shapes: list[list] = [[], []]
        for i, operand in enumerate(case.operands):
            small, big = (
                (tuple(n) for n in zip(*map(sizes, operand.axes), strict=True))
                if operand.axes
                else ((), ())
            )
            drawn = small if operand.kind != "number" else ()
            x = draw_values(self.rng, operand.values, drawn, operand.dtype)
            self.smalls.append(np.broadcast_to(x, small))
            leaves: dict = {}
            axes = [made(spec, leaves) for spec in operand.axes]
            origin = i if operand.kind == "free" else None
            value = Value(small, big, np.dtype(operand.dtype), axes, origin=origin)
            self.values.append(value)
            self.analysis.params.append((f"x{i}", value))
            for found, shape in zip(shapes, (small, big), strict=True):
                found.append(jax.ShapeDtypeStruct(shape, operand.dtype))
        functions = (case.small, case.big)
        if case.parted:
            functions = in_parts(functions, shapes, self.rng)
        self.closed = [
            interpreter.closed_jaxpr(fn, given) for fn, given in zip(functions, shapes, strict=True)
        ]

    def claims(self) -> Claims:
        found = claims(self.analysis, self.programs(), self.values, self.layout, self.given)
        self.decide(found)
        return found

    def verdict(self) -> Verdict:
        try:
            found = self.claims()
        except GrowthError as error:
            return Verdict(error)
        big = [self.expanded(i) for i in range(len(self.values))]
        outs = [
            interpreter.run(closed, args)
            for closed, args in zip(self.closed, (self.smalls, big), strict=True)
        ]
        for k, (value, small, big_out) in enumerate(zip(found.outs, *outs, strict=True)):
            self.compare(k, value, small, big_out)
        names = frozenset(pair.name for pair in all_pairs(found.pairs))
        return Verdict(None, names, any(v.small != v.big for v in found.outs))

    # -- the programs -------------------------------------------------------------------------

    def programs(self) -> tuple[Program, Program]:
        """Flat, with constants in place of the operands that are some."""
        flat = [self.analysis.folder.flatten(c) for c in self.closed]
        for i, operand in enumerate(self.case.operands):
            if operand.kind not in ("const", "number"):
                continue
            value = self.values[i]
            small = self.constant(("case", i), value.small, self.smalls[i])
            if operand.kind == "number" or (self.smalls[i].size and not self.smalls[i].any()):
                big = self.smalls[i].flat[0] * np.asarray(operand.ratio)
                self.bigs[i] = np.broadcast_to(big.astype(operand.dtype), value.big)
                after = self.constant(("case, big", i), value.big, self.bigs[i])
            else:
                expand = lambda i=i: self.big_constant(i)
                after = Const(value.big, value.dtype, ("case, big", i), expand)
            for program, const in zip(flat, (small, after), strict=True):
                _put(program, program.ins[i], const)
        return flat[0], flat[1]

    def constant(self, key: tuple, shape, array: np.ndarray) -> Const:
        equal = array.size and (array == array.flat[0]).all()
        uniform = array.flat[0] if equal else None
        return Const(shape, array.dtype, key, lambda: array, uniform)

    def big_constant(self, i: int) -> np.ndarray:
        """A constant is expanded once the maps of its axes are known."""
        if i not in self.bigs:
            value = next(v for v in self.analysis.constants if v.const[0].key == ("case", i))
            x, rng = self.smalls[i], self.rng
            told = [labels(a) for a in value.axes]
            sources = [self.scales.source(a) for a in value.axes]
            out = x[np.ix_(*(np.maximum(s, 0) for s in sources))]
            if x.dtype.kind == "f":
                scale = np.exp(rng.choice(self.case.scales, [len(cells) for _, cells in told]))
                out = out * scale[np.ix_(*(t[0][np.maximum(s, 0)] for t, s in
                                           zip(told, sources, strict=True)))]  # fmt: skip
            empty = rng.choice([0.0, 1.0]) * rng.normal(size=out.shape)
            dead = np.zeros(out.shape, bool)
            for d, s in enumerate(sources):
                dead |= np.expand_dims(s < 0, [e for e in range(out.ndim) if e != d])
            self.bigs[i] = np.where(dead, empty, out).astype(x.dtype)
        return self.bigs[i]

    # -- what is given ------------------------------------------------------------------------

    def layout(self, leaf) -> str:
        names = [n for n in self.case.layouts if LAYOUTS[n](leaf.small, leaf.big) is not None]
        # Without padding in half of the cases: some rules refuse it.
        dense = [n for n in names if n in ("repeat", "tile")]
        return str(self.rng.choice(dense if dense and self.rng.random() < 0.5 else names))

    def given(self, scales: ScalePropagation) -> None:
        self.scales = scales
        self.plain: set[int] = set()
        for i, (value, operand) in enumerate(zip(self.values, self.case.operands, strict=True)):
            if operand.kind in ("const", "number"):
                scales.param_split.append({})
                continue
            if operand.kind in ("plain", "same"):
                scales.plain(value)
                self.plain.add(i)
                scales.param_split.append({})
                continue
            scales.unknown(value)
            value.zeros = {(d, uid): padding.of(i, d, uid) for d, uid in scales.padding(value)}
            value.means = {
                (d, uid): padding.of(i, d, uid, padding.MEAN)
                for d, uid in row_means.keys(value, scales.rows)
            }
            scales.param_split.append(dict(value.exponents))
            if not np.issubdtype(operand.dtype, np.inexact):
                scales.whole_numbers(value)
            if operand.values == "positive" and self.rng.random() < 0.5:
                sign = POSITIVE if self.rng.random() < 0.5 else NOT_NEGATIVE
                scales.input_signs[i] = sign
                value.zeros = {} if sign == POSITIVE else value.zeros

    # -- what is drawn of what the rules allow --------------------------------------------------

    def decide(self, found: Claims) -> None:
        scales, rng = self.scales, self.rng
        self.found = found
        for value in self.values:
            for (_, _, uid), expr in (value.exponents or {}).items():
                if scales.factors[uid] == 0.0:
                    scales.splits.require_zero(expr)
        splits = [e for v in self.values for e in (v.exponents or {}).values()]
        between = [
            (c.total, scales.factors[c.leaf.uid] is None, float(rng.normal()))
            for c in scales.contractions
        ]
        value, culprits = choose(
            scales.splits, [(e, float(rng.normal() + 1)) for e in splits], between
        )
        if value is None:
            c = scales.contractions[culprits[0]]
            why = "no parameter can be split over the copies that are summed"
            raise self.analysis.conflict(why, "shares", (c.leaf,), c.pair).error()
        self.bit = value
        wanted = [
            (e, float(rng.choice(self.case.scales)), float(rng.uniform(0.5, 2)))
            for v in self.values if v.scale is not None for e in v.scale.flat if e
        ]  # fmt: skip
        self.log_scale = (
            nearest(scales.system, wanted)
            if wanted
            else lambda e: sum(c for v, c in scales.system.reduce(e).items())
        )
        self.places = unwrap(padding.choose(scales.needs))
        for i, v in enumerate(self.values):
            for d, uid in sorted(scales.padding(v)):
                if self.case.operands[i].kind != "free":
                    continue
                for holds in rng.permutation([padding.ZERO, padding.MEAN]):
                    place = (i, d, uid, int(holds))
                    if (i, d, uid, 1 - int(holds)) in self.places or rng.random() < 0.6:
                        continue
                    if (d, uid) in (v.zeros if holds == padding.ZERO else v.means):
                        self.places.add(place)
        self.shares = {uid: self.draw_share(uid) for uid in scales.factors}
        self.fresh = self.fresh_copies(value)

    def draw_share(self, uid: int) -> np.ndarray:
        leaf = self.leaf(uid)
        source = self.scales.source(leaf)
        if leaf.ordered or (source < 0).any():
            return np.ones(leaf.big)
        count = np.bincount(source, minlength=leaf.small)[source]
        if self.rng.random() < 0.2:
            share = np.ones(leaf.big)
        else:
            drawn = self.rng.uniform(0.5, 1.5, leaf.big)
            share = drawn * count / np.bincount(source, drawn)[source]
        return share if self.scales.factors[uid] is not None else share / count

    def fresh_copies(self, value) -> set[int]:
        """Leaves whose later copies are read with 0 and hold anything (see `zero_out`)."""
        totals: dict[int, list[int]] = {}
        for c in self.scales.contractions:
            totals.setdefault(c.leaf.uid, []).append(value(c.total))
        asked = {find(a).uid for a, _, _ in self.analysis.forced}
        # A share of 0 is not positive. No parameter is, and what is positive carries no shares.
        positive = {
            uid
            for v in self.values
            for (_, _, uid), expr in (v.exponents or {}).items()
            if expr and value(expr) and self.scales.signs.of(v) == POSITIVE
        }
        clean = [
            uid
            for uid in self.scales.factors
            if uid not in self.scales.order_sensitive | asked | positive
            and all(x == 1 for x in totals.get(uid, []))
            and not (self.scales.source(self.leaf(uid)) < 0).any()
        ]
        fresh = {uid for uid in clean if self.rng.random() < 0.5}
        for uid in fresh:
            leaf, source = self.leaf(uid), self.scales.source(self.leaf(uid))
            first = np.zeros(leaf.big)
            first[np.unique(source, return_index=True)[1]] = 1.0
            # The one copy that is read has the whole of the unit.
            even = np.bincount(source, minlength=leaf.small)[source]
            self.shares[uid] = first * (even if self.scales.factors[uid] is not None else 1.0)
        return fresh

    def leaf(self, uid: int) -> Axis:
        return self.found.leaves[uid]

    # -- arrays ---------------------------------------------------------------------------------

    def duplicate(self, value: Value, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The big array that is claimed, and where it copies old units."""
        sources = [self.scales.source(a) for a in value.axes]
        old = [np.maximum(s, 0) for s in sources]
        out = small[np.ix_(*old)] if sources else small
        told = [self.scales.labels(a)[0][o] for a, o in zip(value.axes, old, strict=True)]
        scale = np.ones(value.scale.shape)
        for block in np.ndindex(scale.shape):
            if value.scale[block]:
                scale[block] = _power_of_two(math.exp(self.log_scale(value.scale[block])))
        factor = scale[np.ix_(*told)] if sources else scale
        alive = np.ones(factor.shape, bool)
        for d, s in enumerate(sources):
            alive &= self.along(s >= 0, d, out.ndim)
        for (d, label, uid), expr in (value.exponents or {}).items():
            bit = self.bit(expr) if expr else 0
            if not bit:
                continue
            for place in coordinates(value.axes[d], self.leaf(uid), of_big=True):
                here = (told[d] == label) & (place >= 0)
                share = np.where(here, self.shares[uid][np.maximum(place, 0)], 1.0)
                factor = factor * self.along(share**bit, d, out.ndim)
        if out.dtype.kind in "fc":
            out = out * factor
        else:
            assert (factor[alive] == 1.0).all(), "whole numbers and bits have no scale"
        return out, alive

    @staticmethod
    def along(vector: np.ndarray, d: int, ndim: int) -> np.ndarray:
        return vector.reshape([-1 if e == d else 1 for e in range(ndim)])

    def expanded(self, i: int) -> np.ndarray:
        """The operand of the big program."""
        operand, value, small = self.case.operands[i], self.values[i], self.smalls[i]
        if operand.kind in ("const", "number"):
            return self.bigs[i] if i in self.bigs else self.big_constant(i)
        if operand.kind == "same":
            return small
        shift = self.scales.shift.get(i, 0.0)  # w′ = c·(w + s) − s, in padding too
        out, alive = self.duplicate(value, small + shift if shift else small)
        like_old = draw_values(self.rng, operand.values, out.shape, out.dtype)
        zero = out.dtype.type(0)
        like_old = np.where(np.isfinite(like_old), like_old, zero)  # new copies hold numbers
        out = np.where(self.unread(i, value), like_old, out)
        any_number = draw_values(
            self.rng, self.padding_values(operand, value), out.shape, out.dtype
        )
        out = np.where(alive, out, any_number)
        for holds in (padding.MEAN, padding.ZERO):
            for j, d, uid, what in sorted(self.places):
                if j == i and what == holds:
                    out = self.filled(value, out, d, uid, holds)
        return out - shift if shift else out

    def unread(self, i: int, value: Value) -> np.ndarray:
        """Copies that hold anything: in what is free and does not carry shares there.

        What is read with a share of 0 along one axis is 0 there, whatever it is along others.
        """
        where, read = np.zeros(value.big, bool), np.ones(value.big, bool)
        for d, label, leaf in self.scales.cells(value):
            if leaf.uid not in self.fresh or i in self.plain or value.dtype.kind not in "fc":
                continue
            expr = value.exponents.get((d, label, leaf.uid))
            later = self.along(self.later(value, d, label, leaf), d, len(value.axes))
            if expr and self.bit(expr):
                read &= ~later
            elif expr:
                where |= later
        return where & read

    def later(self, value: Value, d: int, label: int | None, leaf) -> np.ndarray:
        """The units along a dimension that are later copies along a leaf."""
        places = coordinates(value.axes[d], leaf, of_big=True)
        first = np.zeros(leaf.big, bool)
        first[np.unique(self.scales.source(leaf), return_index=True)[1]] = True
        where = ((places >= 0) & ~first[np.maximum(places, 0)]).any(0)
        if label is not None:
            old = np.maximum(self.scales.source(value.axes[d]), 0)
            where &= self.scales.labels(value.axes[d])[0][old] == label
        return where

    def apart(self, value: Value, big: np.ndarray) -> np.ndarray:
        """The entries of padding units that affect no other, and so may be anything."""
        found = np.zeros(big.shape, bool)
        for d, _, leaf in self.scales.cells(value):
            if leaf.uid in self.scales.separate:
                empty = np.zeros(value.big[d], bool)
                empty[self.scales._empty(value, d, leaf.uid)] = True
                found |= self.along(empty, d, big.ndim)
        return found

    def padding_values(self, operand: Operand, value: Value) -> Any:
        if operand.dtype != np.float64:
            return "normal"
        return "positive" if self.scales.signs.of(value) else "normal"

    def filled(self, value: Value, out: np.ndarray, d: int, uid: int, holds: int) -> np.ndarray:
        new = self.scales._empty(value, d, uid)
        moved = np.moveaxis(out, d, 0).copy()
        if holds == padding.ZERO:
            moved[new] = 0
        else:
            # Over one factor of a merged axis, at each place along the others.
            parts = factors(value.axes[d]) or [value.axes[d]]
            (at,) = [i for i, part in enumerate(parts) if find(part).uid == uid]
            rows = moved.reshape(*(find(part).big for part in parts), *moved.shape[1:])
            apart = np.moveaxis(rows, at, 0)
            source = self.scales.source(self.leaf(uid))
            apart[source < 0] = apart[source >= 0].mean(0)
        return np.moveaxis(moved, 0, d)

    def over_copies(self, value: Value, array: np.ndarray) -> np.ndarray:
        """Means over the copies of what was chosen where the shares are those of the chosen."""
        for (d, _, uid), expr in (value.exponents or {}).items():
            leaf = self.leaf(uid)
            if expr and leaf.ordered and self.bit(expr):
                shape = [*array.shape[:d], leaf.small, -1, *array.shape[d + 1 :]]
                mean = array.reshape(shape).mean(d + 1, keepdims=True)
                array = np.broadcast_to(mean, array.reshape(shape).shape).reshape(array.shape)
        return array

    # -- what is compared -----------------------------------------------------------------------

    def compare(self, k: int, value: Value, small: np.ndarray, big: np.ndarray) -> None:
        said = f"result {k}: "
        assert big.shape == value.big, said + "shape"
        wanted, alive = self.duplicate(value, small)
        big, wanted = self.over_copies(value, big), self.over_copies(value, wanted)
        for d, _, leaf in self.scales.cells(value):
            if leaf.uid in self.fresh:
                alive = alive & ~self.along(self.later(value, d, None, leaf), d, big.ndim)
        alive = np.broadcast_to(alive, big.shape)
        exact = big.dtype.kind not in "fc"
        finite = np.abs(wanted[alive & np.isfinite(wanted)])
        rtol = 0.0 if exact else self.case.tolerance
        atol = rtol * finite.max(initial=0.0)
        np.testing.assert_allclose(big[alive], wanted[alive], rtol=rtol, atol=atol, err_msg=said)
        speaks = np.array([e is not None for e in value.scale.flat]).reshape(value.scale.shape)
        if not speaks.all():
            told = [
                self.scales.labels(a)[0][np.maximum(self.scales.source(a), 0)] for a in value.axes
            ]
            silent = ~(speaks[np.ix_(*told)] if told else speaks) & alive
            assert ((big[silent] == 0) | ~np.isfinite(big[silent])).all(), said + "no scale"
        if not exact and np.isfinite(small).all():
            watched = ~self.apart(value, big)
            assert np.isfinite(big[watched]).all(), said + "units that hold nothing make no number"
        for holds, claimed in ((padding.ZERO, value.zeros), (padding.MEAN, value.means)):
            for (d, uid), condition in (claimed or {}).items():
                if any(clause <= self.places for clause in condition):
                    filled = self.filled(value, big, d, uid, holds)
                    np.testing.assert_allclose(
                        big, filled, rtol=0, atol=rtol * np.abs(big).max(initial=0.0),
                        err_msg=f"{said}padding {d} does not hold {('0', 'the mean')[holds]}",
                    )  # fmt: skip
        sign = self.scales.signs.of(value)
        if sign and big.dtype.kind == "f":
            least = big.min(initial=1.0)
            assert least > 0 if sign == POSITIVE else least >= 0, said + "sign"


def _power_of_two(x: float) -> float:
    """The nearest one where x is one to within rounding, so that equal numbers stay equal."""
    near = 2.0 ** round(math.log2(x))
    return near if abs(near / x - 1) < 1e-13 else x


def _put(program: Program, var: Any, const: Const) -> None:
    for k, eqn in enumerate(program.equations):
        if any(v is var for v in eqn.ins):
            ins = [const if v is var else v for v in eqn.ins]
            program.equations[k] = Equation(eqn.raw, ins, eqn.outs, eqn.calls)
    program.outs = [const if v is var else v for v in program.outs]
