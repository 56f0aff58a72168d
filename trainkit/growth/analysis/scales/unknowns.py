"""The unknowns of values: scales and share exponents.

Every value V of the big program satisfies, with v its partner and π the index maps of its axes,

    V[J] = exp(scale[block of J]) · Π ρ̃(J)^exponents · v[π(J)]

A block is a combination of labels, one for each axis. `scale` has a linear expression for each
block; `None` means that the value is 0, ±∞ or NaN there, so that any scale fits. `exponents` has
the exponent of the shares ρ̃ of a leaf's copies for each (dimension, label, leaf): 0 for a plain
copy, 1 for a value that is split over the copies. ρ̃ has mean 1 over the copies of each unit, so
that a contraction with exactly one split operand is exact. A leaf may occur several times in one
axis (a flattened n × n matrix); then ρ̃(J) is the product over its coordinates.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainkit.growth.analysis.conflicts import Refused
from trainkit.growth.analysis.constants import compare, no_duplicate, rounding, zero_at
from trainkit.growth.analysis.joint_program import EquationPair, JointProgram, all_pairs
from trainkit.growth.analysis.scales import padding as conditions
from trainkit.growth.analysis.scales import row_means
from trainkit.growth.analysis.scales.padding import ALWAYS, MEAN, Condition, Need
from trainkit.growth.analysis.scales.separate import separate
from trainkit.growth.analysis.scales.shifts import shiftable
from trainkit.growth.analysis.scales.signs import Sign, signs
from trainkit.growth.analysis.scales.statistics import Statistic, statistics
from trainkit.growth.analysis.values import Value
from trainkit.growth.axes.axis import Axis, find
from trainkit.growth.axes.layouts import Layout, Layouts, padded, uneven
from trainkit.growth.axes.linear import ZERO, Expr, System, plus
from trainkit.growth.axes.queries import coordinates, grown_leaves, labels, source_map
from trainkit.growth.ir.dataflow import Facts


class Contraction(NamedTuple):
    """A sum over a grown leaf: the sum of its operands' share exponents must be 0 or 1."""

    total: Expr
    pair: EquationPair
    axis: Axis
    leaf: Axis
    direct: list[int]  # parameters that are operands themselves
    reads: list[Expr]  # the share exponents of those parameters


# (loop of a product, uid of a leaf along it) -> the share exponents of one operand there.
Places = dict[tuple[int, int], list[Expr]]


class Unknowns:
    """The two linear systems (scales, share exponents), and other results of propagation.

    Attributes:
      joint, layouts: the program, and the layouts of its axes.
      factors: uid of a leaf -> log of the copies of each unit; `None` if the numbers differ.
      hollow: whether there are leaves without old units: the results of new layers.
      padded: uids of leaves with padding units.
      rows: those of them whose padding units may hold the mean of the old units.
      input_signs: the signs of the arguments; `signs` has those of all values.
      system, splits: the equations for scales, and for share exponents.
      required: each expression in scales that must be 0, and the equation that requires it (or the
        number of the result), for explanations.
      param_scale, param_split: the unknowns of each parameter.
      contractions: the sums over leaves that grow.
      needs: the conditions on padding units.
      producers: id of a value -> the equation that produces it.
      separate: uids of padded leaves whose units never enter one number.
      products: for each product, the share exponents of both operands; see `Places`.
      order_sensitive: uids of leaves whose copies are used by an equation other than a sum.
      looked_up: uids of leaves whose copies are looked up one by one, and get their own gradients.
      ordered: parameter -> uids of leaves along which its copies must stay bitwise equal, or need
        equal noise.
      shiftable: parameter -> s, if every use is w + s. shift: those for which this is used.
    """

    def __init__(self, joint: JointProgram, layouts: Layouts):
        self.joint, self.layouts = joint, layouts
        self.analysis = joint.analysis
        leaves = {leaf.uid: leaf for v in joint.all_values() for a in v.axes
                  for leaf in grown_leaves(a)}  # fmt: skip
        self.factors = {uid: _log_copies(leaf, layouts[uid]) for uid, leaf in leaves.items()}
        self.hollow = any(leaf.small == 0 for leaf in leaves.values())
        self.padded = frozenset(uid for uid in leaves if padded(layouts[uid]))
        self.rows = frozenset(uid for uid in leaves if layouts[uid] == "row mean")
        self.input_signs = [Sign.UNKNOWN] * len(joint.values)
        self.system = System()
        self.splits = System()
        self.required: list[tuple[Expr, EquationPair | int]] = []
        self.param_scale: list[tuple[Expr, dict[tuple[int, int], Expr]]] = []
        self.param_split: list[dict[tuple[int, int, int], Expr]] = []
        self.contractions: list[Contraction] = []
        self.needs: list[Need] = []
        self.products: list[tuple[Places, Places]] = []
        self.producers: dict[int, EquationPair] = {}
        self.order_sensitive: set[int] = set()
        self.looked_up: set[int] = set()
        self.ordered: dict[int, set[int]] = {}
        self.shiftable = shiftable(joint)
        self.shift: dict[int, float] = {}
        self._users = {id(v): pair for pair in all_pairs(joint.pairs) for v in pair.ins}
        self._labels: dict[int, tuple[np.ndarray, list[tuple[Axis, ...]]]] = {}
        self._sources: dict[int, np.ndarray] = {}

    @functools.cached_property
    def signs(self) -> Facts[Sign]:
        return signs(self.joint, self.input_signs)

    @functools.cached_property
    def constants(self) -> Facts[frozenset[int]]:
        """The dimensions along which values are constant; see `row_means`."""
        return row_means.constants(self.joint)

    @functools.cached_property
    def statistics(self) -> Facts[Statistic]:
        """The values that are functions of one vector; see `statistics`."""
        return statistics(self.joint)

    @functools.cached_property
    def separate(self) -> frozenset[int]:
        """The padded leaves whose units never affect one another; see `separate`."""
        return separate(self.joint, self.padded)

    # -- axes ---------------------------------------------------------------------------------

    def labels(self, axis: Axis) -> tuple[np.ndarray, list[tuple[Axis, ...]]]:
        root = find(axis)
        if root.uid not in self._labels:
            self._labels[root.uid] = labels(root)
        return self._labels[root.uid]

    def source(self, axis: Axis) -> np.ndarray:
        root = find(axis)
        if root.uid not in self._sources:
            self._sources[root.uid] = source_map(root, self.layouts.source)
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

    def multiplied(
        self, operands: Sequence[tuple[Value, Sequence[tuple[int, ...] | None]]]
    ) -> None:
        """Notes a product of operands, each with the loops over each of its dimensions."""
        found: list[Places] = [{} for _ in operands]
        for (value, dims), places in zip(operands, found, strict=True):
            for d, label, leaf in self.cells(value):
                expr = value.exponents.get((d, label, leaf.uid), ZERO)
                for i in dims[d] or ():
                    places.setdefault((i, leaf.uid), []).append(expr)
        self.products += itertools.combinations(found, 2)

    def log_copies(self, cell: Sequence[Axis]) -> float:
        """log of the copies of each unit of a cell; leaves with unequal numbers count as 0."""
        return sum(self.factors[find(leaf).uid] or 0.0 for leaf in cell)

    # -- sources ------------------------------------------------------------------------------

    def parameter(self, value: Value) -> None:
        """Creates the unknowns of a parameter: a scale, a scale per label, an exponent per cell."""
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

    def plain(self, value: Value) -> None:
        """Makes a value a plain copy of the small one."""
        value.scale = np.full(self.blocks(value), None, object)
        for block in np.ndindex(value.scale.shape):
            value.scale[block] = ZERO
        value.exponents = {}
        value.zeros = {}
        value.means = {}

    def unknown(self, value: Value) -> None:
        """Creates new unknowns for a value that later equations determine (a loop's carry)."""
        value.scale = np.empty(self.blocks(value), object)
        for block in np.ndindex(value.scale.shape):
            value.scale[block] = self.system.variable()
        value.exponents = {
            (d, label, leaf.uid): self.splits.variable() for d, label, leaf in self.cells(value)
        }

    def fill_hollow(self, value: Value) -> None:
        """Notes that blocks without old units are not known to be 0, although any scale fits."""
        if not self.hollow or value.scale is None:
            return
        for d, axis in enumerate(value.axes):
            label, cells = self.labels(axis)
            for none in np.setdiff1d(np.arange(len(cells)), label):
                block = value.scale[(slice(None),) * d + (none,)]
                if isinstance(block, np.ndarray):
                    for at in np.ndindex(block.shape):
                        block[at] = ZERO if block[at] is None else block[at]
                elif block is None:
                    value.scale[none] = ZERO

    def padding(self, value: Value) -> list[tuple[int, int]]:
        """All (dimension, leaf uid) of a value with padding units."""
        if not self.padded:
            return []
        keys = {(d, leaf.uid) for d, _, leaf in self.cells(value) if leaf.uid in self.padded}
        return sorted(keys)

    def is_zero(self, value: Value) -> bool:
        if value.const is None:
            return False
        return all(c.is_zero for c in value.const)

    def zero_at(self, value: Value, out: Value, d: int, uid: int) -> Condition | None:
        """The condition under which an operand is 0 in padding units of the result, or `None`."""
        if self.is_zero(value):
            return ALWAYS
        if not value.axes or find(value.axes[d]) is not find(out.axes[d]):
            return None
        return value.zeros.get((d, uid))

    def read(self, value: Value) -> Value:
        if value.scale is None:
            if value.const is None:
                raise AssertionError("a value is used before its equation was processed")
            value.scale = self._constant(value)
            self.fill_hollow(value)
            value.exponents = {}
            value.zeros = {
                (d, uid): ALWAYS
                for d, uid in self.padding(value)
                if zero_at(value.const[1], d, self._empty(value, d, uid))
            }
        return value

    def _empty(self, value: Value, d: int, uid: int) -> np.ndarray:
        """The indices along dimension d that are padding units of a leaf."""
        (leaf,) = {leaf for e, _, leaf in self.cells(value) if e == d and leaf.uid == uid}
        places = coordinates(value.axes[d], leaf, of_big=True)
        source = self.layouts.source(leaf)
        return np.flatnonzero(((places >= 0) & (source[np.maximum(places, 0)] < 0)).any(0))

    def _constant(self, value: Value) -> np.ndarray:
        scale = compare(value, self.layouts)
        if scale is None:
            pair = self._users.get(id(value), self.joint.pairs[-1])
            raise Refused(no_duplicate(self.analysis, value, pair))
        if any(e for e in scale.flat):
            # Ratios of constants are only as exact as the constants.
            self.system.tolerance = max(self.system.tolerance, 4 * rounding(value))
        return scale


def _log_copies(leaf: Axis, layout: Layout) -> float | None:
    if padded(layout):
        return 0.0
    if uneven(layout, leaf.small, leaf.big):
        return None
    return math.log(leaf.big // leaf.small)
