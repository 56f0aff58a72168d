"""Custom backward passes: parameters whose gradient is not the derivative.

The growth of the function determines the growth of the gradient, if the backward pass is linear in
the gradients of the results. A `jax.custom_vjp` may be non-linear (clip, normalise).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from trainkit._core.compat import AnyJaxpr, own_gradient
from trainkit._core.jaxprs import equations
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.dataflow import Lattice, run
from trainkit.growth.ir.primitives import traits, zero_result
from trainkit.growth.ir.program import Folder

PyTree = Any


class Dependence(enum.IntEnum):
    """How a value depends on the gradients of the results."""

    ZERO = 0
    CONSTANT = 1
    LINEAR = 2
    OTHER = 3


ZERO, CONSTANT, LINEAR, OTHER = Dependence


def unproved(
    program: AnyJaxpr, fn: Callable[..., PyTree], params: PyTree, inputs: PyTree
) -> set[int]:
    """Numbers of the parameters whose gradient is not linear in the gradients of the results."""
    if not any(map(own_gradient, equations(program))):
        return set()
    leaves, tree = jax.tree.flatten(params)
    places = [i for i, x in enumerate(leaves) if jax.dtypes.issubdtype(x.dtype, np.inexact)]

    def outputs(differentiated: Sequence[Any], *inputs: Any) -> list[Any]:
        every: list[Any] = [jax.numpy.zeros(x.shape, x.dtype) for x in leaves]
        for i, x in zip(places, differentiated, strict=True):
            every[i] = x
        results = jax.tree.leaves(fn(jax.tree.unflatten(tree, every), *inputs))
        return [y for y in results if jax.dtypes.issubdtype(y.dtype, np.inexact)]

    def backward(cotangents, differentiated, *inputs):
        return jax.vjp(lambda *k: outputs(k, *inputs), *differentiated)[1](cotangents)

    differentiated = [leaves[i] for i in places]
    cotangents = jax.eval_shape(outputs, differentiated, *inputs)
    flat = Folder().flatten(jax.make_jaxpr(backward)(cotangents, differentiated, *inputs))
    n = len(cotangents)
    facts = run(flat, [LINEAR if i < n else CONSTANT for i in range(len(flat.ins))], DEPENDENCE)
    return {i for i, v in zip(places, flat.outs, strict=True) if facts.of(v) == OTHER}


def _constant(v: Any) -> Dependence | None:
    if not isinstance(v, Const):
        return None
    return ZERO if v.is_zero else CONSTANT


def _joined(a: Dependence, b: Dependence) -> Dependence:
    """The dependence of a sum or a selection: linear and constant terms together are neither."""
    return OTHER if {a, b} == {LINEAR, CONSTANT} else max(a, b)


def _transfer(equation: Any, states: list[Dependence]) -> Dependence:
    if zero_result(equation, [state == ZERO for state in states]):
        return ZERO
    if max(states, default=CONSTANT) <= CONSTANT:
        return CONSTANT
    known = traits(equation)
    terms, factors = known.linear.of(states), known.multilinear.of(states)
    if terms and _held_fixed(known.linear.others(states)):
        total = ZERO
        for state in terms:
            total = _joined(total, state)
        return total
    linear = [state for state in factors if state == LINEAR]
    if len(linear) == 1 and OTHER not in factors and _held_fixed(known.multilinear.others(states)):
        return LINEAR
    return OTHER


def _held_fixed(others: list[Dependence]) -> bool:
    return all(state <= CONSTANT for state in others)


DEPENDENCE: Lattice[Dependence] = Lattice(
    top=OTHER,
    join=_joined,
    constant=_constant,
    transfer=_transfer,
    chosen=lambda decides, result: result if decides <= CONSTANT else OTHER,
)
