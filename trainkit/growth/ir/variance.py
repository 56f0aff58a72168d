"""Normal form of variances: E[x²] − E[x]² is rewritten as E[(x − E[x])²]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from trainkit._core.compat import AnyJaxpr
from trainkit._core.jaxprs import at_line


class _Mean(NamedTuple):
    """A mean of `of` over `axes`, as a sum divided by `size`."""

    of: Any
    axes: tuple[int, ...]
    size: float


def centred(producers: Mapping[int, Any], eqn: Any) -> tuple[AnyJaxpr, list[Any]] | None:
    """The program that replaces a difference of moments, and its operands (x and its mean).

    Args:
      producers: id of a variable -> the equation that produces it.
      eqn: a subtraction.
    """
    ins = eqn.ins
    squares, square = _mean(producers, ins[0]), _squared(producers, ins[1])
    if squares is None or square is None:
        return None
    x, mean = _squared(producers, squares.of), _mean(producers, square)
    if x is None or mean is None or (mean.of, mean.axes) != (x, squares.axes):
        return None
    if not jax.dtypes.issubdtype(x.aval.dtype, np.floating):
        return None
    count = math.prod(x.aval.shape[d] for d in mean.axes)
    eps = 4 * float(jax.numpy.finfo(x.aval.dtype).eps)
    if not all(math.isclose(m.size, count, rel_tol=eps) for m in (mean, squares)):
        return None
    shapes = x.aval, square.aval
    if shapes[0].dtype != shapes[1].dtype:
        return None
    if square.aval.shape != ins[0].aval.shape:
        return None
    kept = [1 if d in mean.axes else n for d, n in enumerate(x.aval.shape)]
    if math.prod(kept) != math.prod(square.aval.shape):
        return None

    def variance(x, mean):
        rest = lax.sub(x, lax.broadcast_in_dim(lax.reshape(mean, kept), x.shape, range(x.ndim)))
        total = lax.reshape(lax.reduce_sum(lax.square(rest), mean_axes), mean.shape)
        return lax.div(total, lax.full_like(total, count))

    mean_axes = mean.axes
    structs = [jax.ShapeDtypeStruct(s.shape, s.dtype) for s in shapes]
    # The new equations keep the source line, so that errors can name it.
    return at_line(jax.make_jaxpr(variance)(*structs), eqn.raw), [x, square]


def _squared(producers: Mapping[int, Any], v: Any) -> Any:
    """x where v = x²."""
    e = producers.get(id(v))
    if e is None:
        return None
    twice = e.name == "mul" and e.ins[0] is e.ins[1]
    power = e.name == "integer_pow" and e.params["y"] == 2
    x = e.ins[0] if e.name == "square" or twice or power else None
    return x if hasattr(x, "aval") else None


def _mean(producers: Mapping[int, Any], v: Any) -> _Mean | None:
    e = producers.get(id(v))
    if e is None or e.name not in ("div", "mul"):
        return None
    number = getattr(e.ins[1], "number", None)
    if not number:
        return None
    count = number if e.name == "div" else 1.0 / number
    total = producers.get(id(e.ins[0]))
    while total is not None and total.name in ("broadcast_in_dim", "reshape"):
        if math.prod(total.ins[0].aval.shape) != math.prod(total.outs[0].aval.shape):
            return None  # it changes more than dimensions of size 1
        total = producers.get(id(total.ins[0]))
    if total is None or total.name != "reduce_sum":
        return None
    return _Mean(total.ins[0], tuple(total.params["axes"]), count)
