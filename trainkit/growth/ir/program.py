"""A jaxpr made flat: calls inlined, equations on constants folded, dead equations dropped.

`Folder.flatten` takes a jaxpr to a `Program`: equations in their order, with variables (`Fresh`)
and constants (`Const`) for operands. Loops and branches stay equations, with their bodies as
jaxprs. Inlined are calls that do nothing but run a body; no other body is looked into.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.extend import core

from trainkit._core.compat import AnyJaxpr, expanded, opened
from trainkit._core.jaxprs import at_line, held
from trainkit.growth.ir.lookups import from_the_end, row
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.variance import centred


class Const:
    """A value that depends on neither parameters nor inputs; evaluated only when it is asked for.

    Two constants with the same `key` were computed in the same way from the same literals.
    """

    __slots__ = ("_thunk", "_value", "dtype", "key", "shape", "uniform")

    def __init__(self, shape, dtype, key, thunk, uniform=None):
        self.shape, self.dtype, self.key = tuple(shape), dtype, key
        self.uniform = uniform  # the scalar, where every element is known to be equal
        self._thunk, self._value = thunk, None

    @property
    def value(self) -> np.ndarray:
        if self._value is None:
            if self.uniform is not None:
                self._value = np.broadcast_to(self.uniform, self.shape)
            else:
                self._value = self._thunk()
        return self._value

    @property
    def is_zero(self) -> bool:
        """Whether every element is known to be 0, without evaluating it."""
        return self.uniform is not None and not np.any(self.uniform)


class Equation:
    """One equation of a flat program; operands are `core.Var`s or `Const`s."""

    __slots__ = ("calls", "ins", "name", "outs", "params", "raw")

    def __init__(self, raw: core.JaxprEqn, ins: list, outs: list, calls: tuple):
        self.raw, self.ins, self.outs = raw, ins, outs
        self.calls = calls  # the calls it was inlined from, outermost first
        self.name: str = raw.primitive.name
        self.params: dict[str, Any] = raw.params


class Program:
    """Flat equations with the variables that go in and what comes out."""

    __slots__ = ("equations", "ins", "outs")

    def __init__(self, ins: list, equations: list[Equation], outs: list):
        self.ins, self.equations, self.outs = ins, equations, outs


class Folder:
    """Flattens jaxprs; shares keys and values of constants between all that it flattens."""

    def __init__(self):
        self._keys: dict[Any, int] = {}
        self._values: dict[int, list[np.ndarray]] = {}
        self._producers: dict[int, Equation] = {}  # id of a variable -> the equation it comes from

    def _key(self, parts) -> int:
        return self._keys.setdefault(parts, len(self._keys))

    def literal(self, value: Any) -> Const:
        """A constant from an array or a scalar."""
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
            data = np.asarray(jax.random.key_data(value))
            key = self._key(("random key", str(value.dtype), data.shape, data.tobytes()))
            return Const(value.shape, value.dtype, key, lambda: value)
        array = np.asarray(value)
        key = self._key((str(array.dtype), array.shape, array.tobytes()))
        uniform = None
        if array.size and array.ndim == 0:
            uniform = array
        elif array.size > 1 and array.dtype != object and (array == array.flat[0]).all():
            uniform = array.flat[0]
        return Const(array.shape, array.dtype, key, lambda: array, uniform)

    def flatten(self, jaxpr: AnyJaxpr, known: dict[int, Const] | None = None) -> Program:
        """The flat form; `known` gives the arguments that are constants, by position."""
        ins = [Fresh(v.aval) for v in opened(jaxpr)[0].invars]
        args: list = [(known or {}).get(i, v) for i, v in enumerate(ins)]
        out: list[Equation] = []
        outs = self.run(jaxpr, args, out, ())
        # Dead equations go: they would only have to agree for nothing.
        return Program(ins, live(out, outs), outs)

    def run(self, jaxpr: AnyJaxpr, args: list, out: list[Equation], calls: tuple) -> list:
        """Appends a jaxpr's equations to `out`, flat; returns its results."""
        jaxpr, consts = opened(jaxpr)
        env: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        env.update(zip(jaxpr.constvars, map(self.literal, consts), strict=True))

        def read(atom):
            return self.literal(_literal(atom)) if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            step = Equation(eqn, [read(v) for v in eqn.invars], [], calls)
            known = traits(step)
            if known.call:
                results = self.run(held(eqn), step.ins, out, (*calls, eqn))
            elif (body := expanded(eqn)) is not None:
                results = self.run(at_line(body, eqn), step.ins, out, (*calls, eqn))
            elif step.name == "custom_linear_solve":
                results = self.run(*_solution(step), out, (*calls, eqn))
            elif known.identity or _converts_nothing(eqn):
                results = step.ins
            elif step.name in ("debug_callback", "debug_print"):
                results = []  # looks on, and gives nothing back
            elif all(isinstance(v, Const) for v in step.ins) and not eqn.effects:
                results = self._fold(step)
            elif (other := self._rewritten(step)) is not None:
                results = self.run(*other, out, calls)
            else:
                # A body may be run at several places: its variables are new each time.
                if step.name == "gather":
                    step.ins[1] = self._counted_from_the_start(step, out)
                results = step.outs
                results += [Fresh(v.aval) for v in eqn.outvars]
                out.append(step)
                self._producers.update((id(v), step) for v in results)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _rewritten(self, step: Equation) -> tuple[AnyJaxpr, list] | None:
        """What an equation is written as, so that it has one form, and the operands of that."""
        if step.name == "sub":
            return centred(self._producers, step)
        if step.name in ("gather", "dynamic_slice"):
            return row(self._producers, step)
        return None

    def _counted_from_the_start(self, gather: Equation, out: list[Equation]) -> Any:
        """The index of a gather without "add the table's size where it is negative".

        That size differs between the programs where a table grows; indices count from the start in
        both, and so do those below 0 that the two programs share where it does not.
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

    def _text(self, param: Any) -> Any:
        """A parameter of an equation, to be compared with others."""
        inner = param if isinstance(param, tuple) else (param,)
        consts = [c for x in inner if isinstance(x, AnyJaxpr) for c in opened(x)[1]]
        return repr(param), *(self.literal(c).key for c in consts)

    def _fold(self, step: Equation) -> list[Const]:
        eqn, ins = step.raw, step.ins
        params = tuple(sorted((k, self._text(v)) for k, v in step.params.items()))
        key = self._key((step.name, params, tuple(c.key for c in ins)))
        uniform = None
        if ins and ins[0].uniform is not None:
            if step.name == "convert_element_type":
                uniform = np.asarray(ins[0].uniform).astype(step.params["new_dtype"])
            elif traits(step).chooses:
                uniform = ins[0].uniform

        @functools.cache
        def evaluate():
            if key not in self._values:
                with jax.ensure_compile_time_eval():
                    values = eqn.primitive.bind(*[_device(c) for c in ins], **eqn.params)
                values = values if eqn.primitive.multiple_results else [values]
                self._values[key] = [_host(v) for v in values]
            return self._values[key]

        avals: list[Any] = [v.aval for v in eqn.outvars]
        return [
            Const(
                aval.shape,
                aval.dtype,
                self._key((key, i)),
                functools.partial(lambda i, evaluate: evaluate()[i], i, evaluate),
                uniform,
            )
            for i, aval in enumerate(avals)
        ]


def live(equations: list[Equation], outs: list[Any]) -> list[Equation]:
    """The equations that results need, and those with effects."""
    needed = {id(v) for v in outs if not isinstance(v, Const)}
    kept = []
    for eqn in reversed(equations):
        if eqn.raw.effects or any(id(v) in needed for v in eqn.outs):
            kept.append(eqn)
            needed.update(id(v) for v in eqn.ins if not isinstance(v, Const))
    return kept[::-1]


def _solution(step: Equation) -> tuple[AnyJaxpr, list]:
    """What solves a linear system, and its operands: the others are for gradients."""
    counts, bodies = step.params["const_lengths"], step.params["jaxprs"]
    start = counts.matvec + counts.vecmat
    right = step.ins[sum(counts) :]
    return bodies.solve, [*step.ins[start : start + counts.solve], *right]


def _converts_nothing(eqn: core.JaxprEqn) -> bool:
    """Whether an equation makes nothing but a weak type of a strong one."""
    if eqn.primitive.name != "convert_element_type":
        return False
    before: Any = eqn.invars[0].aval
    return before.dtype == eqn.params["new_dtype"]


class Fresh:
    """A variable of a flat program."""

    __slots__ = ("aval",)

    def __init__(self, aval):
        self.aval = aval


def _literal(atom: core.Literal) -> Any:
    dtype = getattr(atom.aval, "dtype", None)
    if dtype is not None and not jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return np.asarray(atom.val, dtype)
    return atom.val


def _device(c: Const):
    if isinstance(c.value, jax.Array):
        return c.value
    return jax.numpy.asarray(c.value, dtype=c.dtype)


def _host(v):
    if jax.dtypes.issubdtype(v.dtype, jax.dtypes.extended):
        return v
    return np.asarray(v)
