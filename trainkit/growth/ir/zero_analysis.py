"""Which parameters of a new block must be 0 so that the block adds nothing, found in the program.

Going back from the outputs: a value does not feel the new block if it never met its parameters, or
if all it is made of does not feel them. Where a branch of the new block joins the residual stream,
one summand is free of it, and the other can be made 0 by the last linear parameters before the
addition. Those are what is found; nothing depends on names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from trainkit.growth.ir.program import Const, Equation, Program, scan_counts

# 0 in, 0 out.
KEEPS_ZERO = frozenset(
    {
        *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "split"),
        *("dynamic_slice", "gather", "stop_gradient"),
        *("convert_element_type", "reduce_precision"),
        *("reduce_sum", "reduce_max", "reduce_min", "reduce_window_sum", "cumsum", "rev", "tile"),
        *("neg", "sign", "abs", "square", "sqrt", "cbrt", "real", "imag", "div", "rem"),
        *("sin", "tan", "asin", "atan", "sinh", "asinh", "tanh", "erf", "log1p", "expm1"),
    }
)
_EITHER = frozenset({"mul", "dot_general", "conv_general_dilated", "ragged_dot"})
_BOTH = frozenset({"add", "sub", "add_any", "max", "min", "concatenate", "pad", "stack", "atan2"})


class _Zero(NamedTuple):
    inputs: frozenset[int]
    distance: int


def nearest_zeros(program: Program, new: Collection[int]) -> frozenset[int]:
    """Numbers of inputs of new blocks that, at 0, keep those blocks out of every result.

    Args:
      program: of the big model, flat.
      new: the numbers of the inputs that are parameters of new blocks.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit.growth.ir.program import Folder
    >>> def block(x, up, down, bias):
    ...     return x + jnp.tanh(x @ up) @ down + bias
    >>> x, up, down, bias = jnp.ones((2, 4)), jnp.ones((4, 8)), jnp.ones((8, 4)), jnp.ones(4)
    >>> program = Folder().flatten(jax.make_jaxpr(block)(x, up, down, bias))
    >>> sorted(nearest_zeros(program, {1, 2, 3}))
    [2, 3]
    """
    owner = {id(v): i for i, v in enumerate(program.ins) if i in new}
    made: dict[int, Equation] = {}
    touched: set[int] = set(owner)
    zeros: dict[int, _Zero | None] = {}

    def look(v: Any) -> _Zero | None:
        if isinstance(v, Const):
            nothing = v.uniform is not None and not np.any(v.uniform)
            return _Zero(frozenset(), 0) if nothing else None
        return _Zero(frozenset({owner[id(v)]}), 0) if id(v) in owner else zeros.get(id(v))

    for equation in program.equations:
        feels = any(id(v) in touched for v in equation.ins)
        zero = _zero(equation, look)
        for var in equation.outs:
            made[id(var)], zeros[id(var)] = equation, zero
            if feels:
                touched.add(id(var))
    found: set[int] = set()
    stack, seen = list(program.outs), set()
    # An explicit stack: programs are thousands of equations deep.
    while stack:
        v = stack.pop()
        if isinstance(v, Const) or id(v) in seen or id(v) not in touched:
            continue
        seen.add(id(v))
        zero = look(v)
        if zero is not None:
            found |= zero.inputs
        elif made[id(v)].name != "scan":
            stack.extend(made[id(v)].ins)
        else:
            # Rows of stacked leaves are looked for in the body; what is carried in, outside.
            stack.extend(made[id(v)].ins[: sum(scan_counts(made[id(v)].params))])
    return frozenset(found)


def _zero(equation: Equation, look: Callable[[Any], _Zero | None]) -> _Zero | None:
    """The nearest parameters that make this value 0 when they are 0."""
    name, inputs = equation.name, equation.ins
    if name in KEEPS_ZERO or (name == "integer_pow" and equation.params["y"] > 0):
        return _further(look(inputs[0]))
    if name in _EITHER:
        options = [z for z in map(look, inputs[:2]) if z is not None]
        return _further(min(options, key=lambda z: (z.distance, len(z.inputs)), default=None))
    if name == "select_n":
        inputs = inputs[1:]
    elif name not in _BOTH:
        return None
    parts = [look(v) for v in inputs]
    if not parts or any(z is None for z in parts):
        return None
    known = [z for z in parts if z is not None]
    return _Zero(frozenset().union(*(z.inputs for z in known)), 1 + max(z.distance for z in known))


def _further(zero: _Zero | None) -> _Zero | None:
    return None if zero is None else _Zero(zero.inputs, zero.distance + 1)
