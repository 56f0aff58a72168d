"""Equations whose operands are all known: what follows from parameters that are 0 or 1.

1 is what is that up to rounding, as softplus(log(e − 1)), and 0 is a sum that is small beside its
terms. A small number of any other kind is no 0: what comes behind may make it large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from trainkit.growth.ir.constants import WHOLE, Const, Constants
from trainkit.growth.ir.primitives import traits, zero_result
from trainkit.growth.ir.program import Equation
from trainkit.growth.ir.simplification.identities import ZERO, shape_of

_SUMS = ("add", "add_any", "sub", "reduce_sum")


def evaluated(eqn: Equation, ins: Sequence[Any]) -> list[Any] | None:
    """What the results of an equation are, each `ZERO` or a constant; or `None`.

    Args:
      eqn: an equation.
      ins: what stands for its operands. They have to be constants or `ZERO`.
    """
    if not ins or not all(v is ZERO or isinstance(v, Const) for v in ins):
        return None
    if ZERO in ins and zero_result(eqn, [v is ZERO or v.is_zero for v in ins]):
        return [ZERO] * len(eqn.outs)
    if not _plain(eqn):
        return None
    given = [uniform(old.aval, 0) if v is ZERO else v for v, old in zip(ins, eqn.ins, strict=True)]
    results = Constants().fold(eqn.raw, given)
    # Elements that repeat are computed once where each depends on those in its place alone.
    once = traits(eqn).elementwise or eqn.name in ("broadcast_in_dim", "transpose")
    sizes = [math.prod(v.core_shape if once else v.shape) for v in (*given, *results)]
    if max(sizes) > WHOLE and any(v.uniform is None for v in results):
        return None
    largest = max(map(_largest, given)) if eqn.name in _SUMS else 0.0
    return [_rounded(out.aval, v, largest) for out, v in zip(eqn.outs, results, strict=True)]


def uniform(aval: Any, value: Any) -> Const:
    """A constant with equal elements."""
    scalar = np.asarray(value).astype(aval.dtype)
    key = ("uniform", str(aval.dtype), tuple(aval.shape), scalar.tobytes())
    return Const(aval.shape, aval.dtype, key, lambda: None, scalar)


def is_one(v: Any) -> bool:
    """Whether every element of a value is known to be 1."""
    return isinstance(v, Const) and v.number == 1


def _plain(eqn: Equation) -> bool:
    """Whether an equation makes numbers of numbers, and is as it was traced."""
    known = traits(eqn)
    cheap = known.elementwise or known.move is not None or eqn.name == "reduce_sum"
    if not cheap or known.foreign or eqn.raw.effects or not hasattr(eqn.raw.primitive, "bind"):
        return False
    values = [*eqn.ins, *eqn.outs]
    traced: list[Any] = [*eqn.raw.invars, *eqn.raw.outvars]
    return len(values) == len(traced) and all(
        tuple(getattr(v, "aval", v).shape) == shape_of(old)
        and not jax.dtypes.issubdtype(old.aval.dtype, jax.dtypes.extended)
        for v, old in zip(values, traced, strict=True)
    )


def _largest(v: Const) -> float:
    core = np.asarray(v.core)
    return float(np.abs(core).max()) if core.size else 0.0


def _rounded(aval: Any, result: Const, largest: float) -> Any:
    """A result that holds its numbers, or `ZERO`; `largest`: of the terms of a sum."""
    core = np.asarray(result.core)
    if not core.size:
        return result
    first = core.flat[0]
    if jax.numpy.issubdtype(aval.dtype, jax.numpy.floating):
        # Numbers of half precision that differ at all are far apart: 1 + 2ε of bfloat16 is 1.016.
        eps = 4 * min(float(jax.numpy.finfo(dt).eps) for dt in (aval.dtype, jax.numpy.float32))
        for near, size in ((0.0, largest), (1.0, 1.0)):
            if (np.abs(core - np.asarray(near, core.dtype)) <= eps * size).all():
                return ZERO if near == 0 else uniform(aval, near)
    if (core == first).all():
        return uniform(aval, first)
    key = ("value", str(core.dtype), core.shape, core.tobytes())
    return Const(aval.shape, aval.dtype, key, lambda: core, None, core.shape)
