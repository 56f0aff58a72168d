"""Zero analysis: parameters of a new block that must be 0 so that the block adds nothing.

The analysis goes back from the outputs, along values that depend on the new block. Where a residual
branch of the block is added to the stream, one summand does not depend on the block, and the other
is 0 if the last linear parameters before the addition are 0. These parameters are the result. Names
do not matter. Loops are not entered, because equations in their bodies are not equations of the
program that is proved equal to the small one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from trainkit._core.compat import scan_counts
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.dataflow import Facts, Lattice, dependent, run
from trainkit.growth.ir.primitives import makes_zero
from trainkit.growth.ir.program import Program


class Zero(NamedTuple):
    """The nearest inputs that make a value 0 if they are 0, and their distance in equations."""

    inputs: frozenset[int]
    distance: float


_ALWAYS = Zero(frozenset(), 0)
NEVER = Zero(frozenset(), math.inf)


def nearest_zeros(program: Program, new: Collection[int]) -> frozenset[int]:
    """Numbers of inputs of new blocks that remove the blocks from every result if they are 0.

    Args:
      program: the flat program of the big model.
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
    known, touched = zeros(program, new), dependent(program, new)
    producer = {id(v): equation for equation in program.equations for v in equation.outs}
    result: set[int] = set()
    stack, seen = list(program.outs), set()
    # An explicit stack: programs are thousands of equations deep.
    while stack:
        v = stack.pop()
        if id(v) in seen or not touched.of(v):
            continue
        seen.add(id(v))
        if known.of(v) != NEVER:
            result |= known.of(v).inputs
            continue
        maker = producer[id(v)]
        # For a loop, follow its constants and initial carry; rows are analysed in its body.
        count = sum(scan_counts(maker.params)) if maker.name == "scan" else None
        stack.extend(maker.ins[:count])
    return frozenset(result)


def zeros(program: Program, new: Collection[int]) -> Facts[Zero]:
    """For each value the nearest inputs among `new` that make it 0; infinitely far if none do."""
    inputs = [Zero(frozenset({i}), 0) if i in new else NEVER for i in range(len(program.ins))]
    return run(program, inputs, _ZEROS)


def _constant(v: Any) -> Zero | None:
    if not isinstance(v, Const):
        return None
    return _ALWAYS if v.is_zero else NEVER


def _both(zeros: Sequence[Zero]) -> Zero:
    """The inputs that make all of some values 0."""
    if NEVER in zeros or not zeros:
        return NEVER
    inputs = frozenset().union(*(zero.inputs for zero in zeros))
    return Zero(inputs, max(zero.distance for zero in zeros))


def _transfer(equation: Any, zeros: list[Zero]) -> Zero:
    """The nearest inputs that make a result 0, from those that make operands 0."""
    alone, together = makes_zero(equation)
    options = [zero for s in alone for zero in s.of(zeros)] + [_both(s.of(zeros)) for s in together]
    nearest = min(options, key=lambda zero: (zero.distance, len(zero.inputs)), default=NEVER)
    return nearest._replace(distance=nearest.distance + 1)


_ZEROS: Lattice[Zero] = Lattice(
    top=NEVER,
    join=lambda a, b: _both([a, b]),
    constant=_constant,
    transfer=_transfer,
    enters=False,
)
