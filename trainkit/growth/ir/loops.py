"""Normal form of a loop that picks its layers by number: a loop over stacked parameters.

    for i in range(n): h = f(h, w[i])          (`fori_loop`, or a scan over `arange(n)`)

becomes a scan over w. The number i is a carry that counts from 0, or a row of 0, 1, 2, …; w is a
constant of the loop, or a carry that the loop returns unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from trainkit._core.compat import AnyJaxpr, opened, scan_counts
from trainkit._core.jaxprs import at_line
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.primitives import traits

Flatten = Callable[[AnyJaxpr], Any]


class _Loop(NamedTuple):
    """A scan and what its operands are.

    Attributes:
      eqn, body: the scan, and its flat body.
      consts, carries: how many of its first operands are constants, and carried.
      counters: places of carries that count from 0.
      numbers: ids of variables of the body that hold the number of the iteration.
      kept: places of carries that never change.
    """

    eqn: Any
    body: Any
    consts: int
    carries: int
    counters: set[int]
    numbers: set[int]
    kept: set[int]


def over_layers(flatten: Flatten, eqn: Any) -> tuple[AnyJaxpr, list[Any]] | None:
    """The scan over stacked values that replaces a scan, and its operands.

    Args:
      flatten: from a jaxpr to a flat program.
      eqn: a scan.

    Returns:
      `None` if the scan picks no layer by number.
    """
    loop = _loop(flatten, eqn)
    if loop is None:
        return None
    picks = _picks(loop)
    if not picks:
        return None
    struct = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype)
    avals = [struct(getattr(v, "aval", v)) for v in eqn.ins]
    lines: list[Any] = []
    made = jax.make_jaxpr(lambda *operands: _rewritten(loop, picks, operands, lines))(*avals)
    return at_lines(made, lines, eqn.raw), list(eqn.ins)


def at_lines(made: AnyJaxpr, lines: Sequence[Any], raw: core.JaxprEqn) -> AnyJaxpr:
    """The program of a loop with the source line of `raw`, and those of its body's equations."""
    outer, consts = opened(at_line(made, raw))
    eqns = list(outer.eqns)
    for i, eqn in enumerate(eqns):
        if eqn.primitive.name == "scan":
            inner, values = opened(eqn.params["jaxpr"])
            own = lines if len(lines) == len(inner.eqns) else [eqn.source_info] * len(inner.eqns)
            pairs = zip(inner.eqns, own, strict=True)
            body = inner.replace(eqns=[e.replace(source_info=line) for e, line in pairs])
            body = core.ClosedJaxpr(body, values)
            eqns[i] = eqn.replace(params={**eqn.params, "jaxpr": body})
    return core.ClosedJaxpr(outer.replace(eqns=eqns), consts)


def _loop(flatten: Flatten, eqn: Any) -> _Loop | None:
    """What a scan carries; `None` if it does not count its iterations."""
    if eqn.raw.effects or eqn.params["reverse"]:
        return None
    consts, carries = scan_counts(eqn.params)
    counting = [
        i
        for i, v in enumerate(eqn.ins[consts:])
        if isinstance(v, Const) and jax.dtypes.issubdtype(v.dtype, np.integer)
    ]
    if not counting:
        return None
    body = flatten(eqn.params["jaxpr"])
    made = {id(v): e for e in body.equations for v in e.outs}
    counters, numbers = set(), set()
    for i in counting:
        if i >= carries:
            v = eqn.ins[consts + i]
            row = len(v.shape) == 1 and np.array_equal(v.value, np.arange(v.shape[0]))
        else:
            add: Any = made.get(id(body.outs[i]))
            row = _is(eqn.ins[consts + i], 0) and add is not None and add.name == "add"
            row = row and add.ins[0] is body.ins[consts + i] and _is(add.ins[1], 1)
            counters |= {consts + i} if row else set()
        if row:
            numbers.add(id(body.ins[consts + i]))
    if not numbers:
        return None
    for e in body.equations:  # an index is the number, moved or converted
        known = traits(e)
        alone = len(e.ins) == len(e.outs) == 1 and id(e.ins[0]) in numbers
        if alone and (known.move == "whole" or known.same):
            numbers.add(id(e.outs[0]))
    kept = {i for i in range(consts, consts + carries) if body.outs[i - consts] is body.ins[i]}
    return _Loop(eqn, body, consts, carries, counters, numbers, kept)


def _picks(loop: _Loop) -> dict[int, tuple[int, dict[int, bool]]]:
    """Place of an operand that is stacked over layers -> its layer axis, and the equations that
    pick a layer: id -> whether the result keeps an axis of size 1."""
    found: dict[int, tuple[int, dict[int, bool]]] = {}
    for place in [*range(loop.consts), *loop.kept]:
        v = loop.body.ins[place]
        uses = [e for e in loop.body.equations if any(u is v for u in e.ins)]
        axes = [_layer_axis(loop, e, v) for e in uses]
        if uses and None not in axes and len(set(axes)) == 1:
            assert axes[0] is not None
            found[place] = axes[0], {id(e): e.name == "dynamic_slice" for e in uses}
    return found


def _layer_axis(loop: _Loop, e: Any, v: Any) -> int | None:
    """The axis along which an equation picks the layer of this iteration from v, or `None`."""
    if e.name not in ("gather", "dynamic_slice") or e.ins[0] is not v:
        return None
    shape, sizes = v.aval.shape, e.params["slice_sizes"]
    part = [d for d, n in enumerate(sizes) if n != shape[d]]
    if len(part) != 1 or sizes[part[0]] != 1 or shape[part[0]] != loop.eqn.params["length"]:
        return None
    (d,) = part
    if e.name == "dynamic_slice":
        rest = all(_is(u, 0) for i, u in enumerate(e.ins[1:]) if i != d)
        return d if rest and id(e.ins[1 + d]) in loop.numbers else None
    numbers = e.params["dimension_numbers"]
    whole = tuple(numbers.start_index_map) == tuple(numbers.collapsed_slice_dims) == (d,)
    one = len(e.outs[0].aval.shape) == len(shape) - 1 and not numbers.operand_batching_dims
    return d if whole and one and id(e.ins[1]) in loop.numbers else None


def _rewritten(
    loop: _Loop,
    picks: dict[int, tuple[int, dict[int, bool]]],
    operands: Sequence[Any],
    lines: list[Any],
) -> list[Any]:
    """The results of the loop, as a scan over stacked values; `lines` gets those of its body."""
    first, length = loop.consts + loop.carries, loop.eqn.params["length"]
    carried = [
        i for i in range(loop.consts, first) if i not in loop.counters and i not in loop.kept
    ]
    rows = {i: operands[i] for i in range(first, len(operands))}
    rows |= {i: jnp.moveaxis(operands[i], axis, 0) for i, (axis, _) in picks.items()}
    rows |= {i: jnp.arange(length, dtype=operands[i].dtype) for i in loop.counters}
    picked = {e: (i, axis if kept else None) for i, (axis, eqns) in picks.items()
              for e, kept in eqns.items()}  # fmt: skip

    def iteration(carry: Sequence[Any], row: dict[int, Any]) -> tuple[list[Any], list[Any]]:
        values = dict(enumerate(operands[:first])) | dict(zip(carried, carry, strict=True)) | row
        env = {id(v): values[i] for i, v in enumerate(loop.body.ins)}
        read = lambda v: v.value if isinstance(v, Const) else env[id(v)]
        lines.clear()  # the body may be traced twice
        for e in loop.body.equations:
            if id(e) in picked:
                i, axis = picked[id(e)]
                outs = [row[i] if axis is None else lax.expand_dims(row[i], (axis,))]
                lines.extend([] if axis is None else [e.raw.source_info])
            else:
                lines.append(e.raw.source_info)
                outs = e.raw.primitive.bind(*map(read, e.ins), **e.params)
                outs = outs if e.raw.primitive.multiple_results else [outs]
            env.update(zip(map(id, e.outs), outs, strict=True))
        results = [read(v) for v in loop.body.outs]
        return [results[i - loop.consts] for i in carried], results[loop.carries :]

    with jax.numpy_dtype_promotion("standard"):
        last, stacked = lax.scan(iteration, [operands[i] for i in carried], rows, length)
    final = dict(zip(carried, last, strict=True)) | {i: operands[i] for i in loop.kept}
    final |= {i: jnp.full((), length, operands[i].dtype) for i in loop.counters}
    return [*(final[i] for i in range(loop.consts, first)), *stacked]


def _is(v: Any, value: int) -> bool:
    uniform = getattr(v, "uniform", None)
    return uniform is not None and uniform == value
