"""Two flat programs walked in lockstep; every equation's axes are unified on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from trainkit.growth.analysis.indices import Match, Pick
from trainkit.growth.axes.axis import Axis, Mismatch, find, show, unify
from trainkit.growth.axes.reading import grown_leaves, leaves
from trainkit.growth.errors import GrowthError
from trainkit.growth.ir.products import alike, in_one_order
from trainkit.growth.ir.program import Const, Equation, Folder, Program
from trainkit.growth.ir.source_lines import describe, where


class Value:
    """A value of both programs: its shapes, one `Axis` a dimension, what it comes from.

    Attributes:
      const: the constant in both programs, or `None`.
      origin: the parameter that this is, up to moving its elements about, or `None`.
      scale, carries, zeros, means: what the flow pass finds; see `flow`.
      choice: what it is if it is no copy, but about what was chosen along an axis; see `choice`.
    """

    __slots__ = (
        "axes",
        "big",
        "carries",
        "choice",
        "const",
        "dtype",
        "means",
        "origin",
        "scale",
        "sign",
        "small",
        "zeros",
    )

    def __init__(self, small, big, dtype, axes=None, const=None, origin=None):
        self.small, self.big, self.dtype = tuple(small), tuple(big), dtype
        if axes is None:
            axes = [Axis(n, m) for n, m in zip(self.small, self.big, strict=True)]
        self.axes: list[Axis] = axes
        self.const: tuple[Const, Const] | None = const
        self.origin: int | None = origin
        self.scale: Any = None
        self.carries: Any = None
        self.zeros: Any = None
        self.means: Any = {}
        self.sign = 0  # see `signs`
        self.choice: Pick | Match | None = None


class Joint:
    """One equation of both programs."""

    __slots__ = ("analysis", "big", "bodies", "ins", "name", "notes", "outs", "params", "small")

    def __init__(self, analysis: Analysis, small: Equation, big: Equation, ins: list[Value]):
        self.analysis, self.small, self.big = analysis, small, big
        self.name, self.params = small.name, small.params
        self.ins = ins
        self.outs: list[Value] = []
        self.bodies: list[Body] = []
        self.notes: dict[str, Any] = {}

    def both(self, key: str) -> tuple[Any, Any]:
        return self.params[key], self.big.params[key]

    def new_out(self, i: int, axes: Sequence[Axis] | None = None, origin=None) -> Value:
        small, big = self.small.outs[i].aval, self.big.outs[i].aval
        if small.ndim != big.ndim:
            self.fail(f"the results have {small.ndim} and {big.ndim} dimensions")
        value = Value(
            small.shape, big.shape, small.dtype, list(axes) if axes else None, None, origin
        )
        for d, (axis, n, m) in enumerate(zip(value.axes, value.small, value.big, strict=True)):
            axis = find(axis)
            if m < n:
                self.fail(
                    f"dimension {d} of the result shrinks from {n} to {m}, so that what is one "
                    "unit of the small model is none of the big one",
                    mend="grow all factors of a split axis: query and key heads together, heads "
                    "or head_dim (key heads alone: how='groups')",
                )
            if (axis.small, axis.big) != (n, m):
                self.fail(
                    f"dimension {d} of the result is {n} → {m} where {show(axis)} was expected"
                )
        self.outs.append(value)
        return value

    def unify(self, a: Axis, b: Axis) -> None:
        try:
            unify(a, b)
        except Mismatch as error:
            self.fail(
                f"the axes {show(a)} and {show(b)} meet here but have no structure in common: "
                f"{error}",
                axes=(a, b),
                mend="grow both by the same factor, or only sizes that divide one another",
            )

    def same_told(self, *ignored: str) -> None:
        """Refuses where the two equations are told different things (other than sizes)."""
        for key, a in self.params.items():
            b = self.big.params.get(key)
            if key in ignored or "jaxpr" in key or key in ("sharding", "out_sharding"):
                continue
            same = a is b
            if not same:
                try:
                    same = bool(np.all(a == b))
                except Exception:
                    same = repr(a) == repr(b)
            if not same:
                self.fail(f"the two programs say {key}={a} and {key}={b}")

    def refuse_growth(self, value: Value, dims: Sequence[int], why: str, mend: str | None) -> None:
        for d in dims:
            axis = find(value.axes[d])
            if not axis.fixed:
                self.fail(f"{why} (dimension {d} of an operand)", axes=(axis,), mend=mend)

    def fail(self, message: str, *, axes: Sequence[Axis] = (), mend: str | None = None) -> NoReturn:
        self.analysis.fail(message, axes=axes, mend=mend, equation=self.small, other=self.big)


class Body(NamedTuple):
    """The body of a control-flow equation, walked in lockstep too."""

    ins: list[Value]
    equations: list[Joint]
    outs: list[Value]


class Rule(NamedTuple):
    """What one primitive does.

    Attributes:
      axes: makes the results' values and unifies axes.
      flow: carries scales and splits from operands to results.
    """

    axes: Callable[[Joint], None]
    flow: Callable[[Any, Joint], None]


class Analysis:
    """The joint program of one model at two widths."""

    def __init__(self, rules: dict[str, Rule], unknown: Rule):
        self.rules, self.unknown = rules, unknown
        self.folder = Folder()
        self.params: list[tuple[str, Value]] = []
        self.count = 0
        self.forced: list[tuple[Axis, str, Joint | None]] = []  # axes whose layout an equation asks

    def rule(self, name: str, operands: Sequence[Value]) -> Rule:
        """The rule of a primitive; the rule of choices where one is among its operands."""
        chosen = any(v.choice is not None for v in operands)
        return self.rules["choice"] if chosen else self.rules.get(name, self.unknown)

    def force(self, axis: Axis, layout: str, joint: Joint | None = None) -> None:
        """Asks for a layout of an axis; `choose_layouts` gives it."""
        self.forced.append((axis, layout, joint))

    def paths(self, axes: Sequence[Axis]) -> list[str]:
        """The parameter axes that share a grown leaf with `axes`."""
        wanted = {leaf.uid for a in axes for leaf in leaves(a)}
        grown = {leaf.uid for a in axes for leaf in grown_leaves(a)}
        wanted = grown or wanted
        found = []
        for path, value in self.params:
            for d, axis in enumerate(value.axes):
                if wanted & {leaf.uid for leaf in leaves(axis)}:
                    found.append(f"{path} (axis {d}: {show(axis)})")
        return found

    def fail(self, message, *, axes=(), mend=None, equation=None, other=None) -> NoReturn:
        told, params = axes, self.paths(axes)
        if not params:  # no parameter has such an axis: whatever grows may be the reason
            every = [a for _, value in self.params for a in value.axes if not find(a).fixed]
            params, axes = self.paths(every) if every else [], axes or every
        shown = " and ".join(dict.fromkeys(show(a) for a in axes)) or None
        if equation is not None:
            message += f"\n  small:      {describe(equation)}"
            if other is not None:
                message += f"\n  big:        {describe(other)}"
        error = GrowthError(
            message,
            axis=shown,
            params=params,
            primitive=equation.name if equation is not None else None,
            source=where(equation) if equation is not None else None,
            mend=mend,
        )
        error.leaves = [leaf for a in told for leaf in grown_leaves(a)]
        raise error

    def constant(self, small: Const, big: Const) -> Value:
        return Value(small.shape, big.shape, small.dtype, None, (small, big))

    def walk(
        self, small: Program, big: Program, args: list[Value]
    ) -> tuple[list[Joint], list[Value]]:
        """Pairs the equations one by one; returns them and the values that come out."""
        if not alike(small, big):
            one, other = (in_one_order(program, self.folder) for program in (small, big))
            if alike(one, other):
                small, big = one, other
        of_small: dict[int, Value] = {id(v): a for v, a in zip(small.ins, args, strict=True)}
        of_big: dict[int, Value] = {id(v): a for v, a in zip(big.ins, args, strict=True)}

        def pair(s, b) -> Value | None:
            if isinstance(s, Const) and isinstance(b, Const):
                return self.constant(s, b) if len(s.shape) == len(b.shape) else None
            if isinstance(s, Const) or isinstance(b, Const):
                return None
            value = of_small[id(s)]
            return value if of_big[id(b)] is value else None

        joints = []
        for i in range(max(len(small.equations), len(big.equations))):
            s = small.equations[i] if i < len(small.equations) else None
            b = big.equations[i] if i < len(big.equations) else None
            if s is None or b is None or s.name != b.name or len(s.ins) != len(b.ins):
                self._differ(i, s, b, "different operations")
            assert s is not None
            assert b is not None
            ins = [pair(x, y) for x, y in zip(s.ins, b.ins, strict=True)]
            known = [v for v in ins if v is not None]
            if len(known) < len(ins):
                self._differ(i, s, b, f"operand {ins.index(None)} comes from elsewhere")
            joint = Joint(self, s, b, known)
            self.count += 1
            self.rule(s.name, known).axes(joint)
            assert len(joint.outs) == len(s.outs), f"rule of {s.name} made too few results"
            joints.append(joint)
            for var, other, value in zip(s.outs, b.outs, joint.outs, strict=True):
                of_small[id(var)] = of_big[id(other)] = value
        if len(small.outs) != len(big.outs):
            raise GrowthError(f"the functions return {len(small.outs)} and {len(big.outs)} arrays")
        outs = [pair(s, b) for s, b in zip(small.outs, big.outs, strict=True)]
        known = [v for v in outs if v is not None]
        if len(known) < len(outs):
            raise GrowthError(
                f"result {outs.index(None)} comes from different places in the two programs"
            )
        for i, v in enumerate(known):
            if v.choice is not None:
                self.fail(
                    f"result {i} tells which entries of an axis that grows were chosen",
                    axes=[a for a in v.axes if not find(a).fixed],
                    mend="return what the model makes of them",
                )
        return joints, known

    def body(self, small: Any, big: Any, args: list[Value]) -> Body:
        """Walks the body of a control-flow equation on `args` (constants are folded into it)."""
        known = [{i: a.const[j] for i, a in enumerate(args) if a.const is not None} for j in (0, 1)]
        first, second = (
            self.folder.flatten(jaxpr, k) for jaxpr, k in zip((small, big), known, strict=True)
        )
        return Body(args, *self.walk(first, second, args))

    def _differ(self, i: int, s: Equation | None, b: Equation | None, why: str) -> NoReturn:
        there = s or b
        assert there is not None, "two programs that both end do not differ"
        raise GrowthError(
            "the two functions are not one model at two sizes; the first difference, at equation "
            f"{i}: {why}\n"
            f"  small:      {describe(s) if s else 'ends here'}\n"
            f"  big:        {describe(b) if b else 'ends here'}",
            primitive=there.name,
            source=where(there),
            mend="build both from one definition that differs in sizes alone (not in depth, "
            "options or branches taken on a size)",
        )
