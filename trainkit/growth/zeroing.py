"""Which parameters of a new block must be 0 so that the block adds nothing, found in the program.

Going back from the outputs: a value does not feel the new block if it never met its parameters, or
if all it is made of does not feel them. Where a branch of the new block joins the residual stream,
one summand is free of it, and the other can be made 0 by the last linear parameters before the
addition. Those are what is found; nothing depends on names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from trainkit.growth.program import scan_counts

PyTree = Any

# 0 in, 0 out.
_KEEPS_ZERO = frozenset(
    {
        *(
            "reshape",
            "transpose",
            "broadcast_in_dim",
            "squeeze",
            "slice",
            "dynamic_slice",
            "gather",
        ),
        *("convert_element_type", "reduce_precision", "copy", "name", "sharding_constraint"),
        *("reduce_sum", "reduce_max", "reduce_min", "reduce_window_sum", "cumsum", "rev", "tile"),
        *("neg", "sign", "abs", "square", "sqrt", "cbrt", "real", "imag", "div", "rem"),
        *("sin", "tan", "asin", "atan", "sinh", "asinh", "tanh", "erf", "log1p", "expm1"),
    }
)
_EITHER = frozenset({"mul", "dot_general", "conv_general_dilated", "ragged_dot"})
_BOTH = frozenset({"add", "sub", "add_any", "max", "min", "concatenate", "pad", "stack", "atan2"})
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class _Equation(NamedTuple):
    primitive: str
    inputs: tuple[Any, ...]
    params: dict[str, Any]


class _Zero(NamedTuple):
    leaves: frozenset[str]
    distance: int


class _Literal(NamedTuple):
    value: Any


class Program:
    """A jaxpr with its calls inlined: every value knows the equation that made it."""

    def __init__(self, closed: Any, inputs: list[Any]):
        self.made: dict[int, _Equation] = {}
        self._next = 0
        self.inputs = inputs
        self.outputs = self._run(closed.jaxpr, closed.consts, inputs)

    def new(self) -> int:
        self._next += 1
        return self._next

    def _run(self, jaxpr: Any, consts: Any, args: list[Any]) -> list[Any]:
        env: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            env[var] = _Literal(value)
        read = lambda v: _Literal(v.val) if isinstance(v, core.Literal) else env[v]
        for eqn in jaxpr.eqns:
            inputs = [read(v) for v in eqn.invars]
            inner = next((eqn.params[k] for k in _CALLS if k in eqn.params), None)
            name = eqn.primitive.name
            if inner is not None and name not in ("scan", "while", "cond"):
                closed = inner if hasattr(inner, "consts") else core.ClosedJaxpr(inner, ())
                # Custom rules may put non-differentiable arguments first.
                outs = self._run(closed.jaxpr, closed.consts, inputs[-len(closed.jaxpr.invars) :])
                env.update(zip(eqn.outvars, outs, strict=True))
                continue
            for i, var in enumerate(eqn.outvars):
                value = self.new()
                params = dict(eqn.params, output=i)
                self.made[value] = _Equation(name, tuple(inputs), params)
                env[var] = value
        return [read(v) for v in jaxpr.outvars]


def leaves_to_zero(
    fn: Callable[..., Any], params: PyTree, inputs: tuple[Any, ...], new: Collection[str]
) -> frozenset[str]:
    """Names of leaves of new blocks that, at 0, keep those blocks out of every result.

    Args:
      fn: `fn(params, *inputs)`.
      params: arrays or shapes, the deeper model's.
      inputs: arrays or shapes.
      new: names of the leaves of new blocks; of stacked leaves (a layer axis, under a scan), the
        rows of new layers are meant.

    >>> import jax.numpy as jnp
    >>> def block(p, x):
    ...     return x + jnp.tanh(x @ p["up"]) @ p["down"] + p["bias"]
    >>> p = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 4)), "bias": jnp.ones(4)}
    >>> sorted(leaves_to_zero(block, p, (jnp.ones((2, 4)),), list(p)))
    ['bias', 'down']
    """
    from trainkit.growth.paths import named_leaves

    names = list(named_leaves(params))
    flat, treedef = jax.tree.flatten(params)
    closed = jax.make_jaxpr(lambda leaves, *xs: fn(jax.tree.unflatten(treedef, leaves), *xs))(
        flat, *inputs
    )
    count = len(closed.jaxpr.invars)
    program = Program(closed, list(range(-count, 0)))
    owner = {program.inputs[i]: name for i, name in enumerate(names) if name in set(new)}
    found = _search(program, program.outputs, owner)
    for equation in program.made.values():
        if equation.primitive == "scan" and equation.params["output"] == 0:
            found |= _in_scan(program, equation, owner)
    return found


def _search(program: Program, outputs: list[Any], owner: dict[Any, str]) -> frozenset[str]:
    zeros: dict[Any, _Zero | None] = {}
    touched: dict[Any, bool] = {}
    # Explicit stacks: programs are thousands of equations deep.
    for value in sorted(program.made):
        equation = program.made[value]
        touched[value] = any(
            v in owner or touched.get(v, False) for v in equation.inputs if isinstance(v, int)
        )
        zeros[value] = _zero(equation, lambda v: _look(v, zeros, owner))
    found: set[str] = set()
    stack, seen = list(outputs), set()
    while stack:
        value = stack.pop()
        if not isinstance(value, int) or value in seen:
            continue
        seen.add(value)
        if value not in owner and not touched.get(value, False):
            continue
        zero = _look(value, zeros, owner)
        if zero is not None:
            found |= zero.leaves
        elif program.made[value].primitive != "scan":
            stack.extend(program.made[value].inputs)
        else:
            equation = program.made[value]
            # Rows of stacked leaves are looked for inside; what is carried in, outside.
            loop = sum(scan_counts(equation.params))
            stack.extend(equation.inputs[:loop])
    return frozenset(found)


def _look(value: Any, zeros: dict[Any, _Zero | None], owner: dict[Any, str]) -> _Zero | None:
    if isinstance(value, _Literal):
        return _Zero(frozenset(), 0) if not np.any(value.value) else None
    if value in owner:
        return _Zero(frozenset({owner[value]}), 0)
    return zeros.get(value)


def _zero(equation: _Equation, look: Callable[[Any], _Zero | None]) -> _Zero | None:
    """The nearest parameters that make this value 0 when they are 0."""
    name, inputs = equation.primitive, equation.inputs
    if name in _KEEPS_ZERO or (name == "integer_pow" and equation.params["y"] > 0):
        return _further(look(inputs[0]))
    if name in _EITHER:
        options = [z for z in map(look, inputs[:2]) if z is not None]
        return _further(min(options, key=lambda z: (z.distance, len(z.leaves)), default=None))
    if name == "select_n":
        inputs = inputs[1:]
    elif name not in _BOTH:
        return None
    parts = [look(v) for v in inputs]
    if not parts or any(z is None for z in parts):
        return None
    known = [z for z in parts if z is not None]
    return _Zero(frozenset().union(*(z.leaves for z in known)), 1 + max(z.distance for z in known))


def _further(zero: _Zero | None) -> _Zero | None:
    return None if zero is None else _Zero(zero.leaves, zero.distance + 1)


def _in_scan(program: Program, equation: _Equation, owner: dict[Any, str]) -> frozenset[str]:
    """The stacked leaves whose rows, at 0, make one turn of the loop pass its carry on."""
    p = equation.params
    loop = sum(scan_counts(p))
    stacked = {}
    for i, value in enumerate(equation.inputs[loop:]):
        while isinstance(value, int) and value in program.made:
            maker = program.made[value]
            if maker.primitive not in ("convert_element_type", "copy", "optimization_barrier"):
                break
            value = maker.inputs[0]
        if value in owner:
            stacked[loop + i] = owner[value]
    if not stacked:
        return frozenset()
    count = len(p["jaxpr"].jaxpr.invars)
    body = Program(p["jaxpr"], list(range(-count, 0)))
    inside = {body.inputs[i]: name for i, name in stacked.items()}
    return _search(body, body.outputs[: scan_counts(p)[1]], inside)
