"""Zero analysis: parameters of a new block that must be 0 so that the block adds nothing.

The analysis goes back from the outputs, along values that depend on the new block. Where a residual
branch of the block is added to the stream, one summand does not depend on the block, and the other
is 0 if the last linear parameters before the addition are 0. These parameters are the result. A
scale that is stored as its difference from 1, as in `norm(x) * (1 + scale)`, is 0 at −1. Names do
not matter. Loops are not entered, because equations in their bodies are not equations of the
program that is proved equal to the small one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from trainkit._core.compat import scan_counts
from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.dataflow import Facts, Lattice, dependent, run
from trainkit.growth.ir.primitives import makes_zero, traits
from trainkit.growth.ir.program import Program
from trainkit.growth.ir.simplification.identities import MINUS_ONE, UNIT, ZERO


class Zero(NamedTuple):
    """The nearest inputs that make a value 0, and their distance in equations.

    Attributes:
      inputs: pairs of the number of an input and what it has to be: ZERO, UNIT or MINUS_ONE.
      distance: the number of equations between these inputs and the value; infinite if none do.
        Equations with nothing but new parameters and constants do not count: 1 + γ is as near as γ.
      own: whether it is computed from new parameters and constants alone.
      elements: the number of the input whose elements the value has; −1 for no single one, or one
        that cannot be −1.
    """

    inputs: frozenset[tuple[int, str]]
    distance: float
    own: bool = False
    elements: int = -1


_ALWAYS = Zero(frozenset(), 0)
NEVER = Zero(frozenset(), math.inf)


def nearest_zeros(program: Program, new: Collection[int]) -> dict[int, str]:
    """Inputs of new blocks that remove the blocks from every result, and what they have to be.

    Args:
      program: the flat program of the big model.
      new: the numbers of the inputs that are parameters of new blocks.

    Returns:
      Number of an input -> ZERO, or the value at which 1 is added or subtracted to give 0.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit.growth.ir.program import Folder
    >>> def block(x, up, down, bias):
    ...     return x + jnp.tanh(x @ up) @ down + bias
    >>> x, up, down, bias = jnp.ones((2, 4)), jnp.ones((4, 8)), jnp.ones((8, 4)), jnp.ones(4)
    >>> program = Folder().flatten(jax.make_jaxpr(block)(x, up, down, bias))
    >>> sorted(nearest_zeros(program, {1, 2, 3}).items())
    [(2, 'zero'), (3, 'zero')]
    """
    known, touched = zeros(program, new), dependent(program, new)
    producer = {id(v): equation for equation in program.equations for v in equation.outs}
    result: dict[int, str] = {}
    stack, seen = list(program.outs), set()
    # An explicit stack: programs are thousands of equations deep.
    while stack:
        v = stack.pop()
        if id(v) in seen or not touched.of(v):
            continue
        seen.add(id(v))
        if known.of(v).distance < math.inf:
            for i, what in known.of(v).inputs:
                # An input that would have to have two values is 0 here, and is found wanting later.
                result[i] = what if result.get(i, what) == what else ZERO
            continue
        maker = producer[id(v)]
        # For a loop, follow its constants and initial carry; rows are analysed in its body.
        count = sum(scan_counts(maker.params)) if maker.name == "scan" else None
        stack.extend(maker.ins[:count])
    return result


def zeros(program: Program, new: Collection[int]) -> Facts[Zero]:
    """For each value the nearest inputs among `new` that make it 0; infinitely far if none do."""
    inputs = [
        Zero(frozenset({(i, ZERO)}), 0, True, i if _is_signed(v) else -1) if i in new else NEVER
        for i, v in enumerate(program.ins)
    ]
    return run(program, inputs, _ZEROS)


def _is_signed(v: Any) -> bool:
    """Whether an input may be −1."""
    signed = (np.inexact, np.signedinteger)
    return any(jax.dtypes.issubdtype(v.aval.dtype, kind) for kind in signed)


def _constant(v: Any) -> Zero | None:
    if not isinstance(v, Const):
        return None
    return _ALWAYS if v.is_zero else NEVER


def _both(zeros: Sequence[Zero]) -> Zero:
    """The inputs that make all of some values 0."""
    distance = max((zero.distance for zero in zeros), default=math.inf)
    if distance == math.inf:
        return NEVER
    return Zero(frozenset().union(*(zero.inputs for zero in zeros)), distance)


def _transfer(equation: Any, zeros: list[Zero]) -> Zero:
    """The nearest inputs that make a result 0, from those that make operands 0."""
    alone, together = makes_zero(equation)
    options = [zero for s in alone for zero in s.of(zeros)] + [_both(s.of(zeros)) for s in together]
    options += _cancelled(equation, zeros)
    nearest = min(options, key=lambda zero: (zero.distance, len(zero.inputs)), default=NEVER)
    own = all(zero.own or isinstance(v, Const) for v, zero in zip(equation.ins, zeros, strict=True))
    elements = zeros[0].elements if traits(equation).chooses else -1
    return Zero(nearest.inputs, nearest.distance + (not own), own, elements)


def _cancelled(equation: Any, zeros: list[Zero]) -> Iterator[Zero]:
    """What makes the sum or the difference of an input and ±1 be 0."""
    if equation.name not in ("add", "add_any", "sub"):
        return
    for mine, other in ((0, 1), (1, 0)):
        one = equation.ins[other].number if isinstance(equation.ins[other], Const) else None
        if zeros[mine].elements >= 0 and one is not None and abs(one) == 1:
            what = UNIT if (one == 1) == (equation.name == "sub") else MINUS_ONE
            yield Zero(frozenset({(zeros[mine].elements, what)}), zeros[mine].distance)


_ZEROS: Lattice[Zero] = Lattice(
    top=NEVER,
    join=lambda a, b: _both([a, b]),
    constant=_constant,
    transfer=_transfer,
    enters=False,
)
