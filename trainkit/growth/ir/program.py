"""A jaxpr made flat: calls inlined, equations on constants folded, dead equations dropped."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.extend import core

from trainkit._core.jaxprs import AnyJaxpr, opened
from trainkit.growth.ir.lookups import MOVES, from_the_end, row
from trainkit.growth.ir.variance import centred

# Calls whose body is simply run: they carry no meaning of their own for the value.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_lin": "call_jaxpr",
    "xla_call": "call_jaxpr",
    "run_state": "jaxpr",
}

# What says where or how a value is kept, and leaves it as it is.
IDENTITIES = {
    "copy", "copy_p", "name", "optimization_barrier", "sharding_constraint", "mesh_cast", "reshard",
    "device_put", "pvary", "pcast", "layout_constraint",
}  # fmt: skip


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
        self._made: dict[int, Equation] = {}  # what made a variable

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
        live = {id(v) for v in outs if not isinstance(v, Const)}
        kept = []
        for eqn in reversed(out):
            if eqn.raw.effects or any(id(v) in live for v in eqn.outs):
                kept.append(eqn)
                live.update(id(v) for v in eqn.ins if not isinstance(v, Const))
        return Program(ins, kept[::-1], outs)

    def run(self, jaxpr: AnyJaxpr, args: list, out: list[Equation], calls: tuple) -> list:
        """Appends a jaxpr's equations to `out`, flat; returns its results."""
        jaxpr, consts = opened(jaxpr)
        env: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        env.update(zip(jaxpr.constvars, map(self.literal, consts), strict=True))

        def read(atom):
            return self.literal(_literal(atom)) if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            ins = [read(v) for v in eqn.invars]
            name = eqn.primitive.name
            if name in CALLS and CALLS[name] in eqn.params:
                results = self.run(eqn.params[CALLS[name]], ins, out, (*calls, eqn))
            elif name == "custom_linear_solve":
                body, ins = _solution(eqn, ins)
                results = self.run(body, ins, out, (*calls, eqn))
            elif name in IDENTITIES or _converts_nothing(eqn):
                results = ins
            elif name in ("debug_callback", "debug_print"):
                results = []  # looks on, and gives nothing back
            elif all(isinstance(v, Const) for v in ins) and not eqn.effects:
                results = self._fold(eqn, ins)
            elif (other := self._rewritten(eqn, ins)) is not None:
                results = self.run(*other, out, calls)
            else:
                # A body may be run at several places: its variables are made anew each time.
                if name == "gather":
                    ins[1] = self._counted_from_the_start(eqn, ins[0], ins[1], out)
                results = [Fresh(v.aval) for v in eqn.outvars]
                out.append(Equation(eqn, ins, results, calls))
                self._made.update((id(v), out[-1]) for v in results)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _rewritten(self, eqn: core.JaxprEqn, ins: list) -> tuple[AnyJaxpr, list] | None:
        """What an equation is written as, so that it has one form, and the operands of that."""
        if eqn.primitive.name == "sub":
            return centred(self._made, eqn, ins)
        if eqn.primitive.name in ("gather", "dynamic_slice"):
            return row(self._made, eqn, ins)
        return None

    def _counted_from_the_start(self, eqn, table, index, out: list[Equation]):
        """The index of a gather without "add the table's size where it is negative".

        That size differs between the programs where a table grows; indices count from the start in
        both, and so do those below 0 that the two programs share where it does not.
        """
        dims = eqn.params["dimension_numbers"].start_index_map
        if len(dims) != 1:
            return index
        found = from_the_end(self._made, index, getattr(table, "aval", table).shape[dims[0]])
        if found is None:
            return index
        value, moves = found
        for step in moves:
            results = [Fresh(v.aval) for v in step.outs]
            out.append(Equation(step.raw, [value], results, step.calls))
            value = results[0]
            self._made[id(value)] = out[-1]
        return value

    def _fold(self, eqn: core.JaxprEqn, ins: list[Const]) -> list[Const]:
        params = tuple(sorted((k, repr(v)) for k, v in eqn.params.items()))
        key = self._key((eqn.primitive.name, params, tuple(c.key for c in ins)))
        uniform = None
        if eqn.primitive.name in MOVES and ins[0].uniform is not None:
            uniform = ins[0].uniform
            if eqn.primitive.name == "convert_element_type":
                uniform = np.asarray(uniform).astype(eqn.params["new_dtype"])

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


def _solution(eqn: core.JaxprEqn, ins: list) -> tuple[AnyJaxpr, list]:
    """What solves a linear system, and its operands: the others are for gradients."""
    counts, bodies = eqn.params["const_lengths"], eqn.params["jaxprs"]
    start = counts.matvec + counts.vecmat
    right = ins[sum(counts) :]
    return bodies.solve, [*ins[start : start + counts.solve], *right]


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


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many operands of a scan are constants and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carried, _ = params["ft_in"].unpack()  # JAX 0.12 and later
    return len(consts), len(carried)


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
