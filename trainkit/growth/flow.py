"""Scales and splits carried through the joint program, equation by equation.

What holds of every value, with π the index maps of its axes:

    V[J] = exp(scale[block of J]) · Π ρ̃(J)^carries · v[π(J)]

`scale` has one linear expression for each block (one label an axis); `None` stands for a value
that is 0, ±∞ or NaN there, which any scale fits. `carries` says, for each (dimension, label, leaf),
how often the value carries the split factors ρ̃ of that leaf: 0 for a plain copy, 1 for a split.
ρ̃ has mean 1 over the copies of each unit, so that a contraction with one split is exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from trainkit.growth import hollow as conditions
from trainkit.growth import signs
from trainkit.growth.axes import Axis, coordinate, find, grown_leaves, labels, source_map
from trainkit.growth.hollow import ALWAYS, Condition
from trainkit.growth.linear import ZERO, Expr, System, constant, plus
from trainkit.growth.lockstep import Analysis, Joint, Value

ANY = "any"  # an index that is not known: every old place may go anywhere


class Group(NamedTuple):
    """Dimensions of an operand that become dimensions of a result, moved together.

    `small` and `big` give for each place of the result (row-major over `out`) the place of the
    operand (row-major over `src`), −1 where it is not from there; `None` for the identity.
    """

    src: tuple[int, ...]
    out: tuple[int, ...]
    small: Any = None
    big: Any = None


class Contraction(NamedTuple):
    """A sum over a grown leaf: what its operands carry together must be 0 or 1."""

    total: Expr
    joint: Joint
    axis: Axis
    leaf: Axis
    direct: list[int]  # parameters that are operands themselves
    reads: list[Expr]  # what those parameters carry


class Flow:
    """The state of the pass: two systems of equations and the contractions met."""

    def __init__(self, analysis: Analysis, factors: dict[int, float | None], holes: frozenset[int]):
        self.analysis = analysis
        self.holes = holes  # uids of leaves with new units that copy nothing
        self.makers: dict[int, Joint] = {}
        self.watched: set[int] = set()  # leaves whose copies something else than a sum looks at
        self.factors = factors  # leaf uid -> log of the copies a unit, None where uneven
        self.scales = System()
        self.splits = System()
        self.contractions: list[Contraction] = []
        self.needs: list[tuple[Condition, list[int]]] = []  # what must be 0 in new units
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
        base = self.scales.variable()
        more: dict[tuple[int, int], Expr] = {}
        for d, n in enumerate(self.blocks(value)):
            for label in range(1, n):
                more[d, label] = self.scales.variable()
        scale = np.empty(self.blocks(value), object)
        for block in np.ndindex(scale.shape):
            expr = base
            for d, label in enumerate(block):
                if label:
                    expr = plus(expr, more[d, label])
            scale[block] = expr
        value.scale = scale
        value.carries = {
            (d, label, leaf.uid): self.splits.variable() for d, label, leaf in self.cells(value)
        }
        i = len(self.param_scale)
        value.zeros = {(d, uid): conditions.of((i, d, uid)) for d, uid in self.hollow(value)}
        self.param_scale.append((base, more))
        self.param_split.append(dict(value.carries))

    def plain(self, value: Value) -> None:
        """A value that is exactly the small one's duplicate."""
        value.scale = np.full(self.blocks(value), None, object)
        for block in np.ndindex(value.scale.shape):
            value.scale[block] = ZERO
        value.carries = {}
        value.zeros = {}

    def unknown(self, value: Value) -> None:
        """A value whose scale later equations decide (a loop's carry)."""
        value.scale = np.empty(self.blocks(value), object)
        for block in np.ndindex(value.scale.shape):
            value.scale[block] = self.scales.variable()
        value.carries = {
            (d, label, leaf.uid): self.splits.variable() for d, label, leaf in self.cells(value)
        }

    def hollow(self, value: Value) -> list[tuple[int, int]]:
        """All (dimension, leaf uid) of a value where some new units copy nothing."""
        if not self.holes:
            return []
        found = {(d, leaf.uid) for d, _, leaf in self.cells(value) if leaf.uid in self.holes}
        return sorted(found)

    def is_zero(self, value: Value) -> bool:
        if value.const is None:
            return False
        return all(c.uniform is not None and not np.any(c.uniform) for c in value.const)

    def zero_at(self, value: Value, out: Value, d: int, uid: int) -> Condition | None:
        """When an operand, aligned with the result, is 0 in the new units of a leaf."""
        if self.is_zero(value):
            return ALWAYS
        if not value.axes or find(value.axes[d]) is not find(out.axes[d]):
            return None
        return value.zeros.get((d, uid))

    def refuse_hollow(self, joint: Joint, value: Value, dims: Sequence[int] | None = None) -> None:
        """Refuses where units that hold nothing would be looked at."""
        for d, _ in self.hollow(value):
            if (dims is None or d in dims) and value.const is None:
                joint.fail(
                    f"units that copy nothing would enter `{joint.name}`",
                    axes=[value.axes[d]],
                    mend="grow this axis to a multiple, or grow another axis",
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
            value.carries = {}
            value.zeros = {
                (d, uid): ALWAYS
                for d, uid in self.hollow(value)
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

    def same_scale(self, joint: Joint, a: Expr | None, b: Expr | None, axes=()) -> Expr | None:
        """Requires two scales to agree; returns it (`None` fits everything)."""
        if a is None or b is None:
            return b if a is None else a
        if a is b or a == b:
            return a
        residual = self.scales.require_zero(plus(a, b, -1.0))
        if residual:
            grown = self._grown_before(joint)
            factor = math.exp(abs(residual))
            joint.fail(
                f"`{joint.name}` would see its operands change by factors that differ by "
                f"{factor:.6g} when they must agree, and no scaling of the parameters mends it",
                axes=[*axes, *grown],
                mend=_mend(joint),
            )
        return a if len(a) <= len(b) else b

    def _grown_before(self, joint: Joint) -> list[Axis]:
        """The axes that grow at an equation, or at the nearest one before it where one does."""
        todo, seen = [joint], set()
        while todo:
            at = todo.pop(0)
            grown = [x for v in [*at.ins, *at.outs] for x in v.axes if not find(x).fixed]
            if grown:
                return grown
            for v in at.ins:
                maker = self.makers.get(id(v))
                if maker is not None and id(maker) not in seen:
                    seen.add(id(maker))
                    todo.append(maker)
        return []

    def pin(self, joint: Joint, value: Value, *, also_carries: bool = True) -> None:
        """Requires a value to be the plain duplicate."""
        self.read(value)
        for expr in value.scale.flat:
            self.same_scale(joint, expr, ZERO)
        if also_carries:
            self.carries_nothing(value)

    def carries_nothing(self, value: Value) -> None:
        for expr in self.read(value).carries.values():
            if expr:
                self.splits.require_zero(expr)

    def scalar(self, expr: Expr | None) -> np.ndarray:
        """The scale of a value without axes."""
        out = np.empty((), object)
        out[()] = expr
        return out

    def same_split(self, a: Expr, b: Expr) -> Expr:
        if a != b:
            self.splits.require_zero(plus(a, b, -1.0))
        return a

    def uniform(self, joint: Joint, value: Value, d: int) -> None:
        """Requires one scale along dimension d."""
        self.read(value)
        n = value.scale.shape[d]
        if n == 1:
            return
        moved = np.moveaxis(value.scale, d, 0)
        for rest in np.ndindex(moved.shape[1:]):
            known: Expr | None = None
            for label in range(n):
                known = self.same_scale(joint, known, moved[(label, *rest)])
            for label in range(n):
                if moved[(label, *rest)] is not None:
                    moved[(label, *rest)] = known

    # -- what equations do --------------------------------------------------------------------

    def elementwise(
        self, joint: Joint, operands: Sequence[Value], out: Value, powers: Sequence[float]
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
        out.carries = {}
        for d, label, leaf in self.cells(out):
            total = ZERO
            for v, p in zip(operands, powers, strict=True):
                total = plus(total, self._carried(v, out, d, label, leaf), p)
            if total:
                out.carries[d, label, leaf.uid] = total
        out.zeros = {}
        for d, uid in self.hollow(out):
            found = [self.zero_at(v, out, d, uid)
                     for v, p in zip(operands, powers, strict=True) if p > 0]  # fmt: skip
            if (either := conditions.either(c for c in found if c is not None)) is not None:
                out.zeros[d, uid] = either
        for v, p in zip(operands, powers, strict=True):
            if p < 0 and signs.sign(v) != signs.POSITIVE:
                self.refuse_hollow(joint, v)

    def agree(self, joint: Joint, operands: Sequence[Value], out: Value) -> None:
        """out takes its elements from, or adds, operands that must agree in scale and split."""
        out.scale = np.empty(self.blocks(out), object)
        for v in operands:
            self.read(v)
        for block in np.ndindex(out.scale.shape):
            known: Expr | None = None
            for v in operands:
                known = self.same_scale(joint, known, v.scale[self._aligned(v, out, block)])
            out.scale[block] = known
        speaking = [v for v in operands if any(e is not None for e in v.scale.flat)]
        out.carries = {}
        for d, label, leaf in self.cells(out):
            exprs = [self._carried(v, out, d, label, leaf) for v in speaking]
            for other in exprs[1:]:
                self.same_split(exprs[0], other)
            if exprs and exprs[0]:
                out.carries[d, label, leaf.uid] = exprs[0]
        out.zeros = {}
        for d, uid in self.hollow(out):
            every = conditions.both(self.zero_at(v, out, d, uid) for v in operands)
            if every is not None:
                out.zeros[d, uid] = every

    def _aligned(self, v: Value, out: Value, block: tuple[int, ...]) -> tuple[int, ...]:
        if not v.axes:
            return ()
        return tuple(
            label if v.scale.shape[d] == out.scale.shape[d] else 0 for d, label in enumerate(block)
        )

    def _carried(self, v: Value, out: Value, d: int, label: int, leaf: Axis) -> Expr:
        if not v.axes or find(v.axes[d]) is not find(out.axes[d]):
            return ZERO
        return v.carries.get((d, label, leaf.uid), ZERO)

    def nest(
        self,
        joint: Joint,
        loops: Sequence[Axis],
        operands: Sequence[tuple[Value, Sequence[tuple[int, ...] | None]]],
        out: Value,
        out_dims: Sequence[tuple[int, ...] | None],
        reduced: Sequence[int],
    ) -> None:
        """out[o] = Σᵣ Π operand[o, r]: a contraction as a nest of loops.

        Each dimension of an operand or of the result is run through by the loops named for it
        (row-major where there are several), or by none (`None`: a window over a fixed axis).
        """
        window: set[int] = set()  # leaves of a kernel's window with zeros around the old taps
        for v, dims in operands:
            self.read(v)
            for d, names in enumerate(dims):
                if names is None:
                    self.uniform(joint, v, d)
                    for e, uid in self.hollow(v):
                        if e == d and (e, uid) in v.zeros:
                            self.needs.append((v.zeros[e, uid], []))
                            window.add(uid)
        counts = [len(self.labels(a)[1]) for a in loops]
        first = [[int(np.argmax(self.labels(a)[0] == c)) for c in range(n)] if n > 1 else [0]
                 for a, n in zip(loops, counts, strict=True)]  # fmt: skip
        for v, dims in [*operands, (out, out_dims)]:
            for d, names in enumerate(dims):
                if names is None and {x.uid for x in grown_leaves(v.axes[d])} <= window:
                    continue
                self._check_loops(joint, v.axes[d], [loops[i] for i in names or ()], names)

        def label(axis: Axis, names: tuple[int, ...] | None, combo: Sequence[int]) -> int:
            if names is None:
                return 0
            if len(names) == 1:
                return combo[names[0]]
            index = 0
            for i in names:
                index = index * find(loops[i]).small + first[i][combo[i]]
            return int(self.labels(axis)[0][index])

        def block_of(v: Value, dims, combo) -> tuple[int, ...]:
            return tuple(label(v.axes[d], names, combo) for d, names in enumerate(dims))

        out.scale = np.full(self.blocks(out), None, object)
        seen: dict[tuple, Expr] = {}
        out.carries = {}
        out.zeros = {}
        for combo in itertools.product(*map(range, counts)):
            total: Expr | None = ZERO
            for v, dims in operands:
                expr = v.scale[block_of(v, dims, combo)]
                total = None if expr is None or total is None else plus(total, expr)
            if total is None:
                continue
            for i in reduced:
                copies = self.log_copies(self.labels(loops[i])[1][combo[i]])
                total = plus(total, constant(copies))
            block = block_of(out, out_dims, combo)
            out.scale[block] = self.same_scale(joint, out.scale[block], total)
            for i, axis in enumerate(loops):
                for leaf in dict.fromkeys(self.labels(axis)[1][combo[i]]):
                    carried = ZERO
                    direct, reads = [], []
                    for v, dims in operands:
                        for d, names in enumerate(dims):
                            if names is None or i not in names:
                                continue
                            key = (d, label(v.axes[d], names, combo), leaf.uid)
                            carried = plus(carried, v.carries.get(key, ZERO))
                            if v.origin is not None and len(names) == 1:
                                direct.append(v.origin)
                                reads.append(v.carries.get(key, ZERO))
                    if leaf.uid in self.holes:
                        self._nest_zeros(
                            joint, loops, operands, out, out_dims, i, leaf, i in reduced
                        )
                    if i in reduced:
                        self.contractions.append(
                            Contraction(carried, joint, axis, leaf, direct, reads)
                        )
                        continue
                    for d, names in enumerate(out_dims):
                        if names is not None and i in names:
                            key = (d, block[d], leaf.uid)
                            if key in seen:
                                self.same_split(seen[key], carried)
                            seen[key] = carried
                            if carried:
                                out.carries[key] = carried

    def _nest_zeros(self, joint, loops, operands, out, out_dims, i, leaf, reduced) -> None:
        found = [
            (ALWAYS if self.is_zero(v) else v.zeros.get((d, leaf.uid)), v)
            for v, dims in operands
            for d, names in enumerate(dims)
            if names is not None and i in names
        ]
        empty = conditions.either(c for c, _ in found if c is not None)
        if reduced and empty is not None:
            self.needs.append((empty, [v.origin for _, v in found if v.origin is not None]))
        if reduced and empty is None:
            joint.fail(
                f"units that copy nothing would be summed by `{joint.name}`",
                axes=[loops[i]],
                mend="grow this axis to a multiple, or grow another axis",
            )
        for d, names in enumerate(out_dims):
            if names is not None and i in names and empty is not None:
                out.zeros[d, leaf.uid] = empty

    def _check_loops(self, joint, axis: Axis, loops: Sequence[Axis], names) -> None:
        """The map of an axis must be the product of the maps of the loops that run through it."""
        if names is None:
            if not find(axis).fixed:
                joint.fail("a window runs over an axis that grows", axes=(axis,))
            return
        if len(loops) == 1 and find(axis) is find(loops[0]):
            return
        source = np.zeros(1, np.int64)
        label = np.zeros(1, np.int64)
        for loop in loops:
            more = self.source(loop)
            bad = (source[:, None] < 0) | (more[None, :] < 0)
            merged = source[:, None] * find(loop).small + more[None, :]
            source = np.where(bad, -1, merged).reshape(-1)
            ids, cells = self.labels(loop)
            label = (label[:, None] * len(cells) + ids[None, :]).reshape(-1)
        if not np.array_equal(source, self.source(axis)):
            joint.fail("the axis does not grow as the product it is used as", axes=(axis, *loops))
        pairs = np.unique(np.stack([label, self.labels(axis)[0]]), axis=1)
        if pairs.shape[1] != len(np.unique(label)):
            joint.fail("the segments of an axis cut through its groups", axes=(axis, *loops))

    def move(
        self,
        joint: Joint,
        out: Value,
        pieces: Sequence[tuple[Value, Sequence[Group]]],
        filler: Expr | Literal[False] | None = False,
    ) -> None:
        """out's elements are the operands', moved. `filler` is the scale of what is from nowhere
        (`False`: there is no such place, or another piece has it)."""
        shape = self.blocks(out)
        out.scale = np.full(shape, None, object)
        out.carries = {}
        out.zeros = {}
        for d, uid in self.hollow(out):
            every = conditions.both(
                self._zero_moved(src, out, groups, d, uid) for src, groups in pieces
            )
            if every is not None:
                out.zeros[d, uid] = every
        seen: dict[tuple[int, int, int], Expr] = {}
        for src, groups in pieces:
            self.read(src)
            ways = [self._ways(joint, src, out, g) for g in groups]
            silent = all(e is None for e in src.scale.flat)
            for block in np.ndindex(shape):
                choices, holes = [], False
                for g, way in zip(groups, ways, strict=True):
                    found, hole = way.get(tuple(block[d] for d in g.out), ([], True))
                    choices.append(found)
                    holes |= hole
                for combo in itertools.product(*choices):
                    at = [0] * len(src.axes)
                    for g, labels_of in zip(groups, combo, strict=True):
                        for d, label in zip(g.src, labels_of, strict=True):
                            at[d] = label
                    out.scale[block] = self.same_scale(
                        joint, out.scale[block], src.scale[tuple(at)]
                    )
                if holes and filler is not False:
                    out.scale[block] = self.same_scale(joint, out.scale[block], filler)
                    if filler is not None:
                        silent = False
            if silent:
                continue
            for g, way in zip(groups, ways, strict=True):
                self._move_splits(src, out, g, way, seen, filler)
        out.carries = {key: expr for key, expr in seen.items() if expr}

    def _zero_moved(self, src: Value, out: Value, groups, d: int, uid: int) -> Condition | None:
        """When what an operand brings to the new units of a leaf of the result is 0."""
        if self.is_zero(self.read(src)):
            return ALWAYS
        (group,) = [g for g in groups if d in g.out]
        found = [key for key in self.hollow(src) if key[0] in group.src and key[1] == uid]
        if not found:
            # The operand brings nothing there, or the same to every unit.
            missing = isinstance(group.small, np.ndarray) and bool((group.small < 0).any())
            return ALWAYS if missing else None
        return conditions.both(src.zeros.get(key) for key in found)

    def _move_splits(self, src, out, g: Group, way, seen, filler) -> None:
        for out_labels, (found, hole) in way.items():
            for d, label in zip(g.out, out_labels, strict=True):
                cell = self.labels(out.axes[d])[1][label]
                for leaf in dict.fromkeys(cell):
                    key = (d, label, leaf.uid)
                    for src_labels in found:
                        places = [
                            (ds, ls)
                            for ds, ls in zip(g.src, src_labels, strict=True)
                            if leaf in self.labels(src.axes[ds])[1][ls]
                        ]
                        exprs = [src.carries.get((*p, leaf.uid), ZERO) for p in places]
                        if len(places) != 1 or cell.count(leaf) > 1:
                            for expr in exprs:  # a leaf met twice, or a fresh copy of the axis
                                self.splits.require_zero(expr)
                            exprs = [ZERO]
                        if hole and filler not in (False, None):
                            self.splits.require_zero(exprs[0])
                        if key in seen:
                            self.same_split(seen[key], exprs[0])
                        else:
                            seen[key] = exprs[0]

    def _ways(self, joint: Joint, src: Value, out: Value, g: Group) -> dict:
        """For each combination of labels of the result the operand's that it comes from."""
        src_axes = [find(src.axes[d]) for d in g.src]
        out_axes = [find(out.axes[d]) for d in g.out]
        src_labels, out_labels = self._flat(src_axes), self._flat(out_axes)
        if isinstance(g.small, str):
            if any(not a.fixed for a in (*src_axes, *out_axes)):
                joint.fail("an axis that grows is read at places that are not known", axes=src_axes)
            every = [tuple(r) for r in np.unique(src_labels, axis=0)]
            return {tuple(r): (every, False) for r in np.unique(out_labels, axis=0)}
        if g.small is None and len(src_axes) == len(out_axes) == 1 and src_axes[0] is out_axes[0]:
            n = len(self.labels(src_axes[0])[1])
            return {(c,): ([(c,)], False) for c in range(n)}
        grows = any(not a.fixed for a in (*src_axes, *out_axes))
        if not grows and src_labels.max(initial=0) == 0 == out_labels.max(initial=0):
            hole = g.small is not None and bool((np.asarray(g.small) < 0).any())
            some = g.small is None or bool((np.asarray(g.small) >= 0).any())
            only = (0,) * len(src_axes)
            return {(0,) * len(out_axes): ([only] if some else [], hole)}
        small = np.arange(len(out_labels)) if g.small is None else np.asarray(g.small)
        if grows:
            self._check_move(joint, src_axes, out_axes, small, g)
        result: dict[tuple, tuple[list, bool]] = {}
        table = np.concatenate([out_labels, np.where(small[:, None] < 0, -1, src_labels[small])], 1)
        n = len(out_axes)
        for row in np.unique(table, axis=0):
            key = tuple(int(x) for x in row[:n])
            found, hole = result.get(key, ([], False))
            # An operand without dimensions in the group has one place only.
            outside = bool(row[n] < 0) if len(row) > n else False
            if outside:
                hole = True
            else:
                found = [*found, tuple(int(x) for x in row[n:])]
            result[key] = (found, hole)
        if not src_axes and (small < 0).any():
            for key in list(result):
                at = np.all(out_labels == np.array(key), axis=1)
                inside = bool((small[at] >= 0).any())
                result[key] = ([()] if inside else [], bool((small[at] < 0).any()))
        return result

    def _check_move(self, joint, src_axes, out_axes, small: np.ndarray, g: Group) -> None:
        """Proves that moving and duplicating commute: π(src[big]) = src[small][π(out)]."""
        src_map, out_map = self._flat_source(src_axes), self._flat_source(out_axes)
        big = np.arange(len(out_map)) if g.big is None else np.asarray(g.big)
        inside = big >= 0
        alive = out_map >= 0
        left = np.where(inside, src_map[np.where(inside, big, 0)], -2)
        right = np.where(alive, small[np.where(alive, out_map, 0)], -1)
        right = np.where(alive & (right < 0), -2, right)
        ok = (left == right) | (~alive & ((left == -1) | (left == -2)))
        if not ok.all():
            joint.fail(
                f"`{joint.name}` does not move copies onto copies of the same units",
                axes=[*src_axes, *out_axes],
                mend=_mend(joint),
            )

    def _flat(self, axes: Sequence[Axis]) -> np.ndarray:
        """Labels of each place of a group of axes: int[places, axes]."""
        total = math.prod(a.small for a in axes)
        out = np.empty((total, len(axes)), np.int64)
        every, each = 1, total
        for i, a in enumerate(axes):
            each //= max(a.small, 1)
            out[:, i] = np.tile(np.repeat(self.labels(a)[0], each), every)
            every *= a.small
        return out

    def _flat_source(self, axes: Sequence[Axis]) -> np.ndarray:
        source = np.zeros(1, np.int64)
        for a in axes:
            more = self.source(a)
            bad = (source[:, None] < 0) | (more[None, :] < 0)
            merged = source[:, None] * a.small + more[None, :]
            source = np.where(bad, -1, merged).reshape(-1)
        return source

    def power(self, joint: Joint, p: float) -> None:
        """out = operandᵖ for p ≠ 1: scales follow, splits do not."""
        self.carries_nothing(joint.ins[0])
        self.elementwise(joint, joint.ins[:1], joint.outs[0], [p])

    def run(self, joints: Sequence[Joint]) -> None:
        for joint in joints:
            self.analysis.rules.get(joint.name, self.analysis.unknown).flow(self, joint)
            if self.holes and len(joint.outs) == 1:
                joint.outs[0].sign = signs.of_result(joint)
            for v in joint.outs:
                self.makers[id(v)] = joint


def _mend(joint: Joint) -> str:
    if joint.name in ("log", "logsumexp", "log1p"):
        return "a log-sum over an axis that grows counts the copies: keep that axis as it is"
    return (
        "a sum over copies is k-fold and a non-linear function of it is not the old one: use a "
        "mean (or a norm) there, or let a parameter read the axis, or keep that axis as it is"
    )
