"""Gradients that are not the program's own: backward passes that a model defines itself.

How a gradient grows follows from how the function does, if the backward pass is linear in what
comes in. A `jax.custom_vjp` may do anything there (clip, normalise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from trainkit.growth.ir.program import CALLS, scan_counts

PyTree = Any
ZERO, CONSTANT, LINEAR, OTHER = range(4)  # how a value depends on what comes in

_SUMS = {
    "add", "sub", "add_any", "neg", "transpose", "reshape", "broadcast_in_dim", "reduce_sum",
    "squeeze", "expand_dims", "concatenate", "pad", "slice", "split", "rev", "cumsum", "copy",
    "copy_p", "convert_element_type", "real", "imag", "complex", "stop_gradient", "name", "tile",
    "reduce_precision", "reduce_window_sum", "fft", "conj", "stack",
}  # fmt: skip
_PRODUCTS = {"mul", "dot_general", "conv_general_dilated", "ragged_dot_general"}
_PLACED = {
    "gather": 1, "dynamic_slice": 1, "scatter-add": 2, "scatter_add": 2, "dynamic_update_slice": 2,
}  # fmt: skip


def unproved(
    program: core.ClosedJaxpr, fn: Callable[..., PyTree], params: PyTree, inputs: PyTree
) -> set[int]:
    """Which leaves of the parameters have a gradient that is not linear in what comes in."""
    if not _defines_its_own(program.jaxpr):
        return set()
    leaves, tree = jax.tree.flatten(params)
    places = [i for i, x in enumerate(leaves) if np.issubdtype(x.dtype, np.inexact)]

    def outputs(known: Sequence[Any], *given: Any) -> list[Any]:
        every: list[Any] = list(leaves)
        for i, x in zip(places, known, strict=True):
            every[i] = x
        for i, x in enumerate(every):
            if i not in places:
                every[i] = jax.numpy.zeros(x.shape, x.dtype)
        found = jax.tree.leaves(fn(jax.tree.unflatten(tree, every), *given))
        return [y for y in found if np.issubdtype(y.dtype, np.inexact)]

    def backward(cotangents, known, *given):
        return jax.vjp(lambda *k: outputs(k, *given), *known)[1](cotangents)

    known = [leaves[i] for i in places]
    cotangents = jax.eval_shape(outputs, known, *inputs)
    closed = jax.make_jaxpr(backward)(cotangents, known, *inputs)
    n = len(cotangents)
    states = [LINEAR if i < n else CONSTANT for i in range(len(closed.jaxpr.invars))]
    return {i for i, s in zip(places, _run(closed.jaxpr, states), strict=True) if s == OTHER}


def _bodies(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    found: list[core.Jaxpr] = []
    for value in eqn.params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            if isinstance(x, core.ClosedJaxpr):
                found.append(x.jaxpr)
            elif isinstance(x, core.Jaxpr):
                found.append(x)
    return found


def _defines_its_own(jaxpr: core.Jaxpr) -> bool:
    return any(
        eqn.primitive.name.startswith("custom_vjp") or any(map(_defines_its_own, _bodies(eqn)))
        for eqn in jaxpr.eqns
    )


def _run(jaxpr: core.Jaxpr, states: Sequence[int]) -> list[int]:
    """How each result depends on what comes in, given how each argument does."""
    env: dict[Any, int] = dict.fromkeys(jaxpr.constvars, CONSTANT)
    env.update(zip(jaxpr.invars, states, strict=True))

    def read(atom) -> int:
        if isinstance(atom, core.Literal):
            return CONSTANT if np.any(np.asarray(atom.val)) else ZERO
        return env[atom]

    for eqn in jaxpr.eqns:
        ins = [read(v) for v in eqn.invars]
        env.update(zip(eqn.outvars, _equation(eqn, ins), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: core.JaxprEqn, ins: list[int]) -> list[int]:
    name, outs = eqn.primitive.name, len(eqn.outvars)
    bodies = _bodies(eqn)
    if name in CALLS and bodies:
        return _run(bodies[0], ins)
    if name == "scan":
        consts, carries = scan_counts(eqn.params)
        while True:
            found = _run(bodies[0], ins)
            carried = [_sum([a, b]) for a, b in zip(ins[consts:], found[:carries], strict=False)]
            if carried == ins[consts : consts + carries]:
                return found
            ins = [*ins[:consts], *carried, *ins[consts + carries :]]
    if name == "cond" and ins[0] <= CONSTANT:
        each = [_run(body, ins[1:]) for body in bodies]
        return [_sum(states) for states in zip(*each, strict=True)]
    return [_plain(name, ins)] * outs


def _plain(name: str, ins: list[int]) -> int:
    if name in _SUMS:
        return _sum(ins)
    if name in _PRODUCTS:
        return _product(ins)
    if name == "div":
        return ins[0] if ins[1] == CONSTANT else max(_sum(ins), CONSTANT)
    if name == "select_n" and ins[0] <= CONSTANT:
        return _sum(ins[1:])
    if name in _PLACED:
        index = 1 if _PLACED[name] == 1 or name.startswith("scatter") else 2
        rest = ins[2:] if name.startswith("scatter") else ins[1:index]
        where = ins[1:2] if name.startswith("scatter") else ins[index:]
        return _sum([ins[0], *rest]) if max(where, default=ZERO) <= CONSTANT else OTHER
    return CONSTANT if max(ins, default=CONSTANT) <= CONSTANT else OTHER


def _sum(states: Sequence[int]) -> int:
    """Linear and constant terms together are neither."""
    if LINEAR in states and CONSTANT in states:
        return OTHER
    return max(states, default=CONSTANT)


def _product(states: Sequence[int]) -> int:
    if ZERO in states:
        return ZERO
    if OTHER in states or states.count(LINEAR) > 1:
        return OTHER
    return max(states)
