"""Normal form of `table[i]`: a gather of one row without clipping; and of slices that are known.

JAX traces `table[i]` with a scalar i, also under `jax.vmap`, to a slice whose start is clipped to
the last row. If the table grows (a vocabulary), the last row is another one. Here i is assumed to
be in bounds after negative indices are counted from the end, so clipping is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from trainkit._core.compat import AnyJaxpr
from trainkit._core.jaxprs import at_line
from trainkit.growth.ir.primitives import traits


def from_the_end(
    producers: Mapping[int, Any], index: Any, size: int
) -> tuple[Any, list[Any]] | None:
    """Undoes "add the size if the index is negative".

    Args:
      producers: id of a variable -> the equation that produces it.
      index: a variable.
      size: the size of the indexed axis.

    Returns:
      The index before that step, and the later equations that moved its elements; or `None`.
    """
    chain: list[Any] = []
    eqn = producers.get(id(index))
    while eqn is not None and len(eqn.ins) == len(eqn.outs) == 1 and _moves(eqn):
        chain.append(eqn)
        eqn = producers.get(id(eqn.ins[0]))
    if eqn is None or eqn.name != "select_n" or len(eqn.ins) != 3:
        return None
    test, plain, added = eqn.ins
    less, plus = producers.get(id(test)), producers.get(id(added))
    if less is None or plus is None or less.name != "lt" or plus.name != "add":
        return None
    if less.ins[0] is not plain or plus.ins[0] is not plain:
        return None
    same = _is(less.ins[1], 0) and _is(plus.ins[1], size)
    return (plain, chain[::-1]) if same else None


def row(producers: Mapping[int, Any], eqn: Any) -> tuple[AnyJaxpr, list[Any]] | None:
    """The gather that replaces a clipped slice of one row, and its operands (table and index).

    Args:
      producers: id of a variable -> the equation that produces it.
      eqn: a gather or a dynamic slice.

    Returns:
      `None` if the equation is not a clipped slice of one row.
    """
    (table, *at), sizes = eqn.ins, eqn.params["slice_sizes"]
    if eqn.name == "dynamic_slice" and (known := _known_slice(eqn)) is not None:
        return known
    if eqn.name == "dynamic_slice":
        index: Any = None
        starts = dict(enumerate(at))
        collapsed: tuple[int, ...] = ()
        offsets = tuple(range(len(sizes)))
    else:
        numbers, index = eqn.params["dimension_numbers"], at[0]
        if eqn.params["mode"] != lax.GatherScatterMode.CLIP or numbers.operand_batching_dims:
            return None
        columns = _columns(producers, index, len(numbers.start_index_map))
        starts = dict(zip(numbers.start_index_map, columns, strict=False))
        collapsed, offsets = numbers.collapsed_slice_dims, numbers.offset_dims
    part = [d for d, n in enumerate(sizes) if n != _aval(table).shape[d]]
    if len(part) != 1 or sizes[part[0]] != 1 or part[0] not in starts:
        return None
    (d,) = part
    if from_the_end(producers, starts[d], _aval(table).shape[d]) is None:
        return None
    kept = [e for e in range(len(sizes)) if e not in collapsed]
    place = offsets[kept.index(d)] if d in kept else None
    if place is not None:
        offsets = tuple(o - (o > place) for o in offsets if o != place)
    form = lax.GatherDimensionNumbers(
        offset_dims=tuple(offsets),
        collapsed_slice_dims=tuple(sorted({*collapsed, d})),
        start_index_map=(d,),
    )

    def look(table: jax.Array, at: jax.Array) -> jax.Array:
        at = at if at.ndim else at[None]
        mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS
        rows = lax.gather(table, at, form, sizes, mode=mode)
        return rows if place is None else jnp.expand_dims(rows, place)

    struct = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype)
    body = jax.make_jaxpr(look)(struct(_aval(table)), struct(_aval(starts[d])))
    return at_line(body, eqn.raw), [table, starts[d]]


def _known_slice(eqn: Any) -> tuple[AnyJaxpr, list[Any]] | None:
    """The slice that replaces a dynamic one whose start is known, and its operand."""
    (table, *at), sizes = eqn.ins, eqn.params["slice_sizes"]
    found: list[Any] = [getattr(v, "uniform", None) for v in at]
    if None in found:
        return None
    shape = _aval(table).shape
    start = [min(max(int(i), 0), n - size) for i, n, size in zip(found, shape, sizes, strict=True)]
    end = [i + size for i, size in zip(start, sizes, strict=True)]
    body = jax.make_jaxpr(lambda x: lax.slice(x, start, end))(
        jax.ShapeDtypeStruct(shape, _aval(table).dtype)
    )
    return at_line(body, eqn.raw), [table]


def _moves(eqn: Any) -> bool:
    """Whether an equation only moves or converts the elements of an index."""
    known = traits(eqn)
    return known.move in ("whole", "part") or known.same


def _columns(producers: Mapping[int, Any], index: Any, count: int) -> list[Any]:
    """The components of an index, each with a last axis of size 1."""
    if count == 1:
        return [index]
    eqn = producers.get(id(index))
    if eqn is None or eqn.name != "concatenate" or len(eqn.ins) != count:
        return []
    return eqn.ins if eqn.params["dimension"] == len(index.aval.shape) - 1 else []


def _aval(v: Any) -> Any:
    return getattr(v, "aval", v)


def _is(v: Any, value: int) -> bool:
    uniform = getattr(v, "uniform", None)
    return uniform is not None and uniform == value
