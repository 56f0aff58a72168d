"""Flat programs: jaxprs with inlined calls, folded constants and without dead equations.

`Folder.flatten` converts a jaxpr to a `Program`: a list of equations whose operands are variables
(`Fresh`) and constants (`Const`). Loops and branches stay equations, with jaxprs as bodies. Only
calls that do nothing but run a body are inlined; no other body is entered.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.extend import core

from trainkit._core.compat import AnyJaxpr, expanded, opened
from trainkit._core.jaxprs import at_line, bodies, equations, held
from trainkit.growth.ir.constants import Const, Constants
from trainkit.growth.ir.lookups import from_the_end, row
from trainkit.growth.ir.loops import over_layers
from trainkit.growth.ir.normal_forms import normal
from trainkit.growth.ir.primitives import foreign, traits
from trainkit.growth.ir.variance import centred


class Equation:
    """One equation of a flat program; operands are `core.Var`s or `Const`s."""

    __slots__ = ("calls", "ins", "name", "outs", "params", "raw")

    def __init__(self, raw: core.JaxprEqn, ins: list, outs: list, calls: tuple):
        self.raw, self.ins, self.outs = raw, ins, outs
        self.calls = calls  # the calls it was inlined from, outermost first
        self.name: str = raw.primitive.name
        self.params: dict[str, Any] = raw.params

    def changed(self, raw: core.JaxprEqn, ins: list) -> Equation:
        """Another equation in its place, without results yet."""
        return Equation(raw, ins, [], self.calls)


class Program:
    """Flat equations, with the input variables `ins` and the results `outs`."""

    __slots__ = ("equations", "ins", "outs")

    def __init__(self, ins: list, equations: list[Equation], outs: list):
        self.ins, self.equations, self.outs = ins, equations, outs


class Folder:
    """Flattens jaxprs, and shares keys and values of constants between them.

    Attributes:
      layered: whether loops that pick layers by number become loops over layers.
      rewritten: whether one did.
    """

    def __init__(self, *, layered: bool = True):
        self.constants = Constants()
        self.layered, self.rewritten = layered, False
        self._producers: dict[int, Equation] = {}  # id of a variable -> the equation it comes from

    def flatten(self, jaxpr: AnyJaxpr, known: dict[int, Const] | None = None) -> Program:
        """The flat program; `known` maps positions of constant arguments to their values."""
        ins = [Fresh(v.aval) for v in opened(jaxpr)[0].invars]
        args: list = [(known or {}).get(i, v) for i, v in enumerate(ins)]
        out: list[Equation] = []
        outs = self.run(jaxpr, args, out, ())
        # Dead equations are removed, because they need not agree between the programs.
        return Program(ins, live(out, outs), outs)

    def run(self, jaxpr: AnyJaxpr, args: list, out: list[Equation], calls: tuple) -> list:
        """Appends a jaxpr's equations to `out`, flat; returns its results."""
        jaxpr, consts = opened(jaxpr)
        env: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        env.update(zip(jaxpr.constvars, map(self.constants.literal, consts), strict=True))

        def read(atom):
            literal = isinstance(atom, core.Literal)
            return self.constants.literal(_literal(atom)) if literal else env[atom]

        for eqn in jaxpr.eqns:
            step = Equation(eqn, [read(v) for v in eqn.invars], [], calls)
            step = normal(self._producers, step)
            known = traits(step)
            if known.call:
                results = self.run(held(eqn), step.ins, out, (*calls, eqn))
            elif (body := expanded(eqn)) is not None:
                results = self.run(at_line(body, eqn), step.ins, out, (*calls, eqn))
            elif step.name == "cond" and isinstance(step.ins[0], Const):
                # Branches that are not taken are ignored.
                taken = min(max(int(step.ins[0].value), 0), len(eqn.params["branches"]) - 1)
                results = self.run(eqn.params["branches"][taken], step.ins[1:], out, (*calls, eqn))
            elif step.name == "custom_linear_solve":
                results = self.run(*_solution(step), out, (*calls, eqn))
            elif known.identity or _converts_nothing(eqn):
                results = step.ins
            elif step.name in ("debug_callback", "debug_print"):
                results = []  # has no results
            elif all(isinstance(v, Const) for v in step.ins) and not _acts(eqn):
                results = self.constants.fold(eqn, step.ins)
            elif (other := self._rewritten(step)) is not None:
                results = self.run(*other, out, calls)
            else:
                # A body may be inlined several times, so its variables are new each time.
                if step.name == "gather":
                    step.ins[1] = self._counted_from_the_start(step, out)
                results = step.outs
                results += [Fresh(v.aval) for v in eqn.outvars]
                out.append(step)
                self._producers.update((id(v), step) for v in results)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _rewritten(self, step: Equation) -> tuple[AnyJaxpr, list] | None:
        """The normal form of an equation as a jaxpr, and its operands; `None` to keep it."""
        if step.name == "sub":
            return centred(self._producers, step)
        if step.name in ("gather", "dynamic_slice"):
            return row(self._producers, step)
        if step.name == "scan" and self.layered:
            found = over_layers(self.flatten, step)
            self.rewritten |= found is not None
            return found
        return None

    def _counted_from_the_start(self, gather: Equation, out: list[Equation]) -> Any:
        """The index of a gather without the step "add the table's size if it is negative".

        That size differs between the programs if the table grows. Without the step, indices count
        from the start in both programs.
        """
        table, index = gather.ins
        dims = gather.params["dimension_numbers"].start_index_map
        if len(dims) != 1:
            return index
        before = from_the_end(self._producers, index, getattr(table, "aval", table).shape[dims[0]])
        if before is None:
            return index
        value, moves = before
        for step in moves:
            results = [Fresh(v.aval) for v in step.outs]
            out.append(Equation(step.raw, [value], results, step.calls))
            value = results[0]
            self._producers[id(value)] = out[-1]
        return value


def live(equations: list[Equation], outs: list[Any]) -> list[Equation]:
    """The equations that the results need, and those with side effects."""
    needed = {id(v) for v in outs if not isinstance(v, Const)}
    kept = []
    for eqn in reversed(equations):
        if eqn.raw.effects or any(id(v) in needed for v in eqn.outs):
            kept.append(eqn)
            needed.update(id(v) for v in eqn.ins if not isinstance(v, Const))
    return kept[::-1]


def by_dependence(program: Program) -> Program:
    """The program with each equation right after those that it needs, from the first result on.

    Equal programs that were traced in another order get the same order.
    """
    producer = {id(v): eqn for eqn in program.equations for v in eqn.outs}
    acting = [eqn for eqn in program.equations if eqn.raw.effects]
    ordered: list[Equation] = []
    seen: set[int] = set()

    def left(values: list) -> list[Equation]:
        found = (producer.get(id(v)) for v in values)
        return [eqn for eqn in found if eqn is not None and id(eqn) not in seen][::-1]

    # An explicit stack: programs are thousands of equations deep.
    stack = [*acting[::-1], *left(program.outs)]
    while stack:
        eqn = stack[-1]
        before = left(eqn.ins)
        if id(eqn) in seen or not before:
            stack.pop()
            if id(eqn) not in seen:
                seen.add(id(eqn))
                ordered.append(eqn)
        else:
            stack.extend(before)
    return Program(program.ins, ordered, program.outs)


def _solution(step: Equation) -> tuple[AnyJaxpr, list]:
    """The solver of a `custom_linear_solve`, and its operands (other bodies are for gradients)."""
    counts, bodies = step.params["const_lengths"], step.params["jaxprs"]
    start = counts.matvec + counts.vecmat
    right = step.ins[sum(counts) :]
    return bodies.solve, [*step.ins[start : start + counts.solve], *right]


def _converts_nothing(eqn: core.JaxprEqn) -> bool:
    """Whether a conversion changes nothing but the weak type."""
    if eqn.primitive.name != "convert_element_type":
        return False
    before: Any = eqn.invars[0].aval
    return before.dtype == eqn.params["new_dtype"]


class Fresh:
    """A variable of a flat program."""

    __slots__ = ("aval",)

    def __init__(self, aval):
        self.aval = aval


def _acts(eqn: core.JaxprEqn) -> bool:
    """Whether an equation has side effects, or runs code that is not JAX."""
    inside = (e for body in bodies(eqn) for e in equations(body))
    return bool(eqn.effects) or any(foreign(e.primitive.name) for e in (eqn, *inside))


def _literal(atom: core.Literal) -> Any:
    dtype = getattr(atom.aval, "dtype", None)
    if dtype is not None and not jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return np.asarray(atom.val, dtype)
    return atom.val
