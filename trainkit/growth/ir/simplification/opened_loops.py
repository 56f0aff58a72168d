"""Loops written out in the program that they are in, so that their bodies are simplified with it.

An opened `scan` is the equations of its body between markers. One marker for each operand gives the
body its constant, its carried value or its row; the last one makes the results of the loop of those
of an iteration. Nothing is known of a carried value. A loop that is closed again has the operands
that its body still uses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from trainkit._core import compat
from trainkit._core.compat import scan_counts
from trainkit.growth.ir.constants import WHOLE, Const
from trainkit.growth.ir.loops import at_lines
from trainkit.growth.ir.program import Equation, Folder, Fresh, Program, live

CONSTANT, CARRIED, ROW, RESULTS = "loop constant", "loop carry", "loop row", "loop results"


class _Name(NamedTuple):
    name: str
    multiple_results: bool = True


@dataclasses.dataclass(frozen=True)
class _Marker:
    """What an equation needs of a `JaxprEqn`. `params`: the loop, and the number of the operand."""

    primitive: _Name
    params: dict[str, Any]
    invars: list[Any]
    outvars: list[Any]
    source_info: Any
    effects: frozenset = frozenset()


def opened(program: Program, folder: Folder) -> Program:
    """The program with the bodies of its loops among its equations."""
    return Program(program.ins, list(_written_out(program.equations, folder)), program.outs)


def _written_out(equations: Sequence[Equation], folder: Folder) -> Iterator[Equation]:
    for eqn in equations:
        if eqn.name != "scan" or eqn.raw.effects:
            yield eqn
            continue
        body = folder.flatten(eqn.params["jaxpr"])
        consts, carries = scan_counts(eqn.params)
        for i, (v, inside) in enumerate(zip(eqn.ins, body.ins, strict=True)):
            kind = CONSTANT if i < consts else CARRIED if i < consts + carries else ROW
            yield marker(eqn, kind, i, [v], [inside])
        yield from _written_out(body.equations, folder)
        first = eqn.ins[consts : consts + carries]
        yield marker(eqn, RESULTS, carries, [*first, *body.outs], eqn.outs)


def marker(loop: Equation, kind: str, number: int, ins: list, outs: list) -> Equation:
    """A marker of a loop, for its operand of some number (of results: how many are carried)."""
    params = {"loop": loop, "number": number}
    raw: Any = _Marker(_Name(kind), params, ins, outs, loop.raw.source_info)
    return Equation(raw, ins, outs, loop.calls)


def iterations(loop: Equation, folder: Folder, numbers: Sequence[int | None]) -> Program:
    """Some iterations of a loop, one after the other, with what is constant in them.

    Args:
      loop: a `scan`.
      folder: flattens its body.
      numbers: those of the iterations, in the order in which they run; `None` for any one.

    Returns:
      A program whose inputs are the constants of the loop, the carry, and the rows of each
      iteration, and whose results are the carry, and the other results of each iteration.
    """
    consts, carries = scan_counts(loop.params)
    first = consts + carries
    body = loop.params["jaxpr"]
    avals = [v.aval for v in compat.opened(body)[0].invars]
    ins: list[Any] = [Fresh(aval) for aval in avals[:first]]
    carry, results = ins[consts:], []
    equations: list[Equation] = []
    for number in numbers:
        rows = [Fresh(aval) for aval in avals[first:]]
        known = constants(loop, folder, number)
        given = [*ins[:consts], *carry, *rows]
        outs = folder.run(body, [known.get(i, v) for i, v in enumerate(given)], equations, ())
        carry = outs[:carries]
        results += outs[carries:]
        ins += rows
    outs = [*carry, *results]
    return Program(ins, live(equations, outs), outs)


def constants(loop: Equation, folder: Folder, number: int | None) -> dict[int, Const]:
    """Number of an operand of a loop -> its value in one iteration, if that is a constant.

    Of any iteration (`number` is `None`), if the rows of the operand are equal.
    """
    consts, carries = scan_counts(loop.params)
    found: dict[int, Const] = {}
    for i, v in enumerate(loop.ins):
        if not isinstance(v, Const) or consts <= i < consts + carries:
            continue
        if i < consts:
            found[i] = v
        elif v.uniform is not None:
            found[i] = Const(v.shape[1:], v.dtype, ("row", v.key), lambda: None, v.uniform)
        elif number is not None and _is_small(v):
            found[i] = folder.constants.literal(np.asarray(v.value[number]))
    return found


def _is_small(v: Const) -> bool:
    """Whether a stacked constant of numbers may be evaluated, and its rows stored."""
    numbers = not jax.dtypes.issubdtype(v.dtype, jax.dtypes.extended)
    return numbers and max(map(math.prod, (v.core_shape, v.shape[1:]))) <= WHOLE


def closed(program: Program, folder: Folder) -> Program | None:
    """The program with its loops as equations again; `None` if a body uses what is outside."""
    known = {id(v) for v in program.ins}
    stands: dict[int, Any] = {}
    kept: list[Equation] = []
    for eqn in program.equations:
        if eqn.name != RESULTS:
            kept.append(
                Equation(eqn.raw, [stands.get(id(v), v) for v in eqn.ins], eqn.outs, eqn.calls)
            )
            continue
        ins = [stands.get(id(v), v) for v in eqn.ins]
        results = _as_scan(eqn, ins, kept, known, folder)
        if results is None:
            return None
        stands.update((id(v), new) for v, new in zip(eqn.outs, results, strict=True))
    outs = [stands.get(id(v), v) for v in program.outs]
    return Program(program.ins, live(kept, outs), outs)


def _as_scan(
    end: Equation, ins: list, kept: list[Equation], outside: set[int], folder: Folder
) -> list[Any] | None:
    """The results of a loop; appends its equation to `kept`."""
    loop, carries = end.params["loop"], end.params["number"]
    wanted = {id(v) for v in ins[carries:] if not isinstance(v, Const)}
    body: list[Equation] = []
    starts: list[Equation] = []
    for eqn in reversed(kept):
        if not any(id(v) in wanted for v in eqn.outs):
            continue
        if eqn.params.get("loop") is loop:
            starts.append(eqn)
            continue
        if eqn.name in (CONSTANT, CARRIED, ROW):
            return None  # a value of the body of another loop
        body.append(eqn)
        wanted |= {id(v) for v in eqn.ins if not isinstance(v, Const)}
    if wanted & outside:
        return None
    # In the order of their use, which is the same in programs with the same equations.
    used = [id(v) for eqn in reversed(body) for v in eqn.ins] + [id(v) for v in ins[carries:]]
    starts.sort(key=lambda eqn: used.index(id(eqn.outs[0])))
    of = lambda kind: [eqn for eqn in starts if eqn.name == kind]
    consts, rows = of(CONSTANT), of(ROW)
    taken = {eqn.params["number"]: eqn.outs[0] for eqn in of(CARRIED)}
    first = scan_counts(loop.params)[0]
    carried = [taken.get(first + i) for i in range(carries)]
    lines: list[Any] = []

    def run(constants: Sequence[Any], initial: Sequence[Any], stacked: Sequence[Any]) -> Any:
        def iteration(carry: Sequence[Any], row: Sequence[Any]) -> tuple[list, list]:
            env = {id(v): x for v, x in zip(carried, carry, strict=True) if v is not None}
            env.update((id(e.outs[0]), x) for e, x in zip(consts, constants, strict=True))
            env.update((id(e.outs[0]), x) for e, x in zip(rows, row, strict=True))
            read = lambda v: v.value if isinstance(v, Const) else env[id(v)]
            lines.clear()  # the body may be traced twice
            for e in reversed(body):
                outs = e.raw.primitive.bind(*map(read, e.ins), **e.params)
                outs = outs if e.raw.primitive.multiple_results else [outs]
                env.update(zip(map(id, e.outs), outs, strict=True))
                lines.append(e.raw.source_info)
            results = [read(v) for v in ins[carries:]]
            return results[:carries], results[carries:]

        options = {key: loop.params[key] for key in ("length", "reverse", "unroll")}
        last, results = lax.scan(iteration, initial, stacked, **options)
        return [*last, *results]

    operands = [e.ins[0] for e in consts], ins[:carries], [e.ins[0] for e in rows]
    struct = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype)
    avals = [[struct(getattr(v, "aval", v)) for v in some] for some in operands]
    with jax.numpy_dtype_promotion("standard"):
        made = jax.make_jaxpr(run)(*avals)
    flat = [v for some in operands for v in some]
    return folder.run(at_lines(made, lines, loop.raw), flat, kept, end.calls)
