"""Clipped values: a second ReLU changes nothing, and neither does another clip to known bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainkit.growth.ir.constants import Const
from trainkit.growth.ir.primitives import traits
from trainkit.growth.ir.program import Equation, Program

Bounds = Mapping[str, float]  # "max" -> the number that a value is at least, "min" -> at most


class Clips:
    """The bounds to which the values of a program were clipped.

    Operands are the variables that stand for them, as in `parts.Parts`.

    Args:
      known: id of a variable -> its bounds.
    """

    def __init__(self, known: Mapping[int, Bounds]) -> None:
        self._bounds = dict(known)

    def of(self, v: Any) -> Bounds:
        """The known bounds of a value."""
        return self._bounds.get(id(v), {})

    def put(self, v: Any, bounds: Bounds) -> None:
        """Notes bounds of a value."""
        self._bounds[id(v)] = bounds

    def equal(self, eqn: Equation, ins: Sequence[Any]) -> Any:
        """The variable that equals the result, as it was clipped before; or `None`."""
        limit = _limit(eqn, ins)
        return ins[0] if limit is not None and self.of(ins[0]).get(eqn.name) == limit else None

    def add(self, eqn: Equation, ins: Sequence[Any]) -> None:
        """Notes the bounds of an equation's result."""
        if ins and (bounds := _clipped(eqn, ins, self.of(ins[0]))):
            self.put(eqn.outs[0], bounds)


def clips(program: Program, v: Any) -> Bounds:
    """The bounds to which a variable is clipped where it is computed.

    >>> import jax, jax.numpy as jnp
    >>> from trainkit.growth.ir.program import Folder
    >>> program = Folder().flatten(jax.make_jaxpr(lambda x: jax.nn.relu6(x)[:2])(jnp.ones(3)))
    >>> clips(program, program.outs[0])
    {'max': 0.0, 'min': 6.0}
    """
    steps: list[Equation] = []
    for eqn in reversed(program.equations):
        if len(eqn.outs) == 1 and eqn.outs[0] is v:
            if _limit(eqn, eqn.ins) is None and not traits(eqn).chooses:
                break
            steps.append(eqn)
            v = eqn.ins[0]
    bounds: Bounds = {}
    for eqn in reversed(steps):
        bounds = _clipped(eqn, eqn.ins, bounds)
    return bounds


def _clipped(eqn: Equation, ins: Sequence[Any], known: Bounds) -> Bounds:
    """The bounds of a result, given those of the first operand."""
    limit = _limit(eqn, ins)
    if limit is not None:
        # min(max(x, 0), 6) is still at least 0.
        return {**(known if _ordered(known, eqn, limit) else {}), eqn.name: limit}
    return known if len(eqn.outs) == 1 and traits(eqn).chooses else {}


def _limit(eqn: Equation, ins: Sequence[Any]) -> float | None:
    """c of max(x, c) or min(x, c), which are idempotent (ReLU is one of them), or `None`."""
    if eqn.name not in ("max", "min") or not isinstance(ins[1], Const):
        return None
    return ins[1].number if hasattr(ins[0], "aval") else None


def _ordered(known: Bounds, eqn: Equation, limit: float) -> bool:
    """Whether the known opposite bound still holds after this one."""
    if eqn.name == "min":
        return known.get("max", -np.inf) <= limit
    return known.get("min", np.inf) >= limit
