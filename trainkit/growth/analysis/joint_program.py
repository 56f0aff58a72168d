"""The joint program: two flat programs, paired equation by equation, with unified axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from trainkit.growth.analysis.conflicts import (
    Refused,
    catch_refusal,
    conflict_between,
    difference,
)
from trainkit.growth.analysis.values import Renamed, SharedValues, Value, worded
from trainkit.growth.axes.axis import Axis, find, show
from trainkit.growth.axes.layouts import Layout
from trainkit.growth.axes.unification import unify
from trainkit.growth.errors import Conflict, Kind
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.dataflow import Fact, Facts, Lattice, run
from trainkit.growth.ir.products import alike, in_one_order
from trainkit.growth.ir.program import Equation, Folder, Program
from trainkit.growth.plan.inputs import GrownInput, NewInputs


class EquationPair:
    """One equation of the small program and its partner in the big one.

    Attributes:
      small, big: the two equations; `name` and `params` are those of the small one.
      ins, outs, bodies: operands, results, and the joined bodies of a loop or branch.
      notes: what a rule's `axes` stores for its `scales`.
    """

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
        own = list(axes) if axes else None
        value = Value(small.shape, big.shape, small.dtype, own, None, origin)
        for d, (axis, n, m) in enumerate(zip(value.axes, value.small, value.big, strict=True)):
            axis = find(axis)
            if m < n:
                self.fail(
                    f"dimension {d} of the result shrinks from {n} to {m}, so that a unit of the "
                    "small model has no unit in the big one",
                    hint="grow all factors of a split axis: query and key heads together, heads "
                    "or head_dim (key heads alone: how='groups')",
                    remedy="groups",
                )
            if (axis.small, axis.big) != (n, m):
                self.fail(f"dimension {d} of the result is {n} → {m}, not {show(axis)}")
        self.outs.append(value)
        return value

    def unify(self, a: Axis, b: Axis, why: str | None = None, hint: str | None = None) -> None:
        """Makes two axes one, or refuses: `why` and `hint` are the words for the user."""
        shown = show(a), show(b)
        if (wrong := unify(a, b)) is not None:
            why = why or f"the axes {shown[0]} and {shown[1]} must be equal here, but are not"
            self.fail(
                f"{why}: {wrong.why}",
                axes=(a, b),
                hint=hint or "grow both by the same factor, or only sizes that divide one another",
            )

    def check_same_params(self, *ignored: str) -> None:
        """Refuses if parameters of the two equations differ (except those in `ignored`)."""
        for key, a in self.params.items():
            b = self.big.params.get(key)
            if key in ignored or "jaxpr" in key or key in ("sharding", "out_sharding"):
                continue
            try:
                same = a is b or bool(np.all(a == b))
            except Exception:
                same = repr(a) == repr(b)
            if not same:
                hint = "use the same in both models, which may differ in sizes alone"
                self.fail(f"the two programs have {key}={a} and {key}={b}", hint=hint)

    def refuse_growth(self, value: Value, dims: Sequence[int], why: str, hint: str | None) -> None:
        """Refuses if one of these dimensions grows."""
        for d in dims:
            axis = find(value.axes[d])
            if not axis.fixed:
                self.fail(f"{why} (dimension {d} of an operand)", axes=(axis,), hint=hint)

    def fail(
        self,
        why: str,
        *,
        axes: Sequence[Axis] = (),
        hint: str | None = None,
        remedy: str | None = None,
    ) -> NoReturn:
        """Refuses this equation, by raising `Refused`."""
        raise Refused(self.analysis.conflict(why, "axes", axes, self, hint=hint, remedy=remedy))


class Body(NamedTuple):
    """The joined body of a loop or branch."""

    ins: list[Value]
    equations: list[EquationPair]
    outs: list[Value]


class Rule(NamedTuple):
    """The rule of one primitive.

    Attributes:
      axes: makes the values of the results, and unifies axes.
      scales: propagates scales, shares and padding from operands to results.
    """

    axes: Callable[[EquationPair], None]
    scales: Callable[[Any, EquationPair], None]


class Analysis:
    """The state of joining two programs.

    Attributes:
      rules, unknown: the rule of each primitive, and the rule of all others.
      folder: flattens bodies of loops, and shares constants between all programs.
      params, count: path and value of each parameter; how many equations have been paired.
      forced: requested layouts: axis, layout, and the equation that requests it.
      in_front: axes in front of a part that is sliced in the same way in both programs.
      more_passes, passes: whether loops over shared weights may run more often, and one does.
      inputs, new: how the arguments after the parameters grow; empty if none of them does.
    """

    def __init__(self, rules: dict[str, Rule], unknown: Rule, folder: Folder | None = None):
        self.rules, self.unknown = rules, unknown
        self.folder = Folder() if folder is None else folder
        self.params: list[tuple[str, Value]] = []
        self.count = 0
        self.forced: list[tuple[Axis, Layout, EquationPair | None]] = []
        self.in_front: list[Axis] = []
        self.inputs: Sequence[GrownInput] = ()
        self.new = NewInputs()
        self.more_passes = self.passes = False

    def rule(self, name: str, operands: Sequence[Value]) -> Rule:
        """The rule of a primitive; the rule "choice" if an operand is about a selection."""
        chosen = any(v.choice is not None for v in operands)
        return self.rules["choice"] if chosen else self.rules.get(name, self.unknown)

    def force(self, axis: Axis, layout: Layout, pair: EquationPair | None = None) -> None:
        """Requests a layout of an axis; `choose_layouts` applies it."""
        self.forced.append((axis, layout, pair))

    def conflict(
        self,
        why: str,
        kind: Kind,
        axes: Sequence[Axis] = (),
        pair: EquationPair | None = None,
        *,
        alone: bool = False,
        hint: str | None = None,
        remedy: str | None = None,
    ) -> Conflict:
        """A conflict about axes, at an equation (`alone`: show the small program's only)."""
        return conflict_between(
            [(path, value.axes) for path, value in self.params],
            why,
            kind,
            axes=axes,
            equation=None if pair is None else pair.small,
            other=None if pair is None or alone else pair.big,
            hint=hint,
            remedy=remedy,
        )

    def constant(self, small: Const, big: Const) -> Value:
        return Value(small.shape, big.shape, small.dtype, None, (small, big))

    def join(
        self, small: Program, big: Program, args: list[Value], *, inside: bool = False
    ) -> tuple[list[EquationPair], list[Value]] | Conflict:
        """Pairs the equations of two flat programs, in order, and unifies their axes.

        Args:
          small, big: programs with the same arguments at two sizes.
          args: the values of the arguments, parameters first.
          inside: whether the programs are bodies, which may return symbols.

        Returns:
          The pairs and the results; or the conflict of the first difference.
        """
        if not alike(small, big):
            one, other = (in_one_order(program, self.folder) for program in (small, big))
            if alike(one, other):
                small, big = one, other
        both = SharedValues(small, big, args, self.constant)
        pairs = []
        for i in range(max(len(small.equations), len(big.equations))):
            s = small.equations[i] if i < len(small.equations) else None
            b = big.equations[i] if i < len(big.equations) else None
            if s is None or b is None or s.name != b.name or len(s.ins) != len(b.ins):
                return difference(i, s, b, "different operations")
            ins = both.values(s.ins, b.ins)
            if isinstance(ins, int):
                return difference(i, s, b, f"operand {ins} has another origin")
            pair = EquationPair(self, s, b, ins)
            self.count += 1
            wrong = catch_refusal("axes", self.rule(s.name, ins).axes, pair)
            if isinstance(wrong, Conflict):
                return wrong
            assert len(pair.outs) == len(s.outs), f"rule of {s.name} made too few results"
            pairs.append(pair)
            both.add(s.outs, b.outs, pair.outs)
        outs = self._results(small, big, both, inside)
        return outs if isinstance(outs, Conflict) else (pairs, outs)

    def _results(
        self, small: Program, big: Program, both: SharedValues, inside: bool
    ) -> list[Value] | Conflict:
        if len(small.outs) != len(big.outs):
            why = f"the functions return {len(small.outs)} and {len(big.outs)} arrays"
            return Conflict(why, "programs")
        outs = both.values(small.outs, big.outs)
        if isinstance(outs, int):
            why = f"result {outs} has a different origin in the two programs"
            return Conflict(why, "programs")
        for i, v in enumerate(outs):
            if v.choice is not None and not (inside and isinstance(v.choice, Renamed)):
                what, hint = worded(v.choice)
                return self.conflict(
                    f"result {i} holds {what}",
                    "axes",
                    [a for a in v.axes if not find(a).fixed],
                    hint=f"return the values that they stand for instead of {hint}")  # fmt: skip
        return outs

    def body(self, small: Any, big: Any, args: list[Value]) -> Body:
        """Joins the bodies of an equation, for rules. Constants among `args` are folded."""
        known = [{i: a.const[j] for i, a in enumerate(args) if a.const is not None} for j in (0, 1)]
        first, second = (
            self.folder.flatten(jaxpr, k) for jaxpr, k in zip((small, big), known, strict=True)
        )
        joined = self.join(first, second, args, inside=True)
        if isinstance(joined, Conflict):
            raise Refused(joined)
        return Body(args, *joined)


class JointProgram(NamedTuple):
    """Two programs joined into one, the input of layout search and scale propagation.

    Attributes:
      analysis: the parameters, and the layouts that equations request.
      values: the arguments, parameters first.
      pairs: the paired equations, in order. Those of bodies are in `EquationPair.bodies`.
      outs: the results.
    """

    analysis: Analysis
    values: list[Value]
    pairs: list[EquationPair]
    outs: list[Value]

    def facts(self, lattice: Lattice[Fact], inputs: Sequence[Fact]) -> Facts[Fact]:
        """Facts about every value, propagated from facts about the arguments."""
        program = Body(self.values, self.pairs, self.outs)
        return run(program, inputs, lattice, bodies=lambda pair: pair.bodies)

    def all_values(self) -> list[Value]:
        """Every value, including those in bodies; some occur several times."""
        every = [*self.values, *self.outs]
        for pair in all_pairs(self.pairs):
            every += [*pair.ins, *pair.outs]
            every += [v for body in pair.bodies for v in (*body.ins, *body.outs)]
        return every


def all_pairs(pairs: Iterable[EquationPair]) -> Iterator[EquationPair]:
    """All equations, each followed by those of its bodies."""
    for pair in pairs:
        yield pair
        for body in pair.bodies:
            yield from all_pairs(body.equations)
