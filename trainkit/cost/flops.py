"""FLOPs of a function, counted from its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from trainkit._core.compat import AnyJaxpr
from trainkit._core.jaxprs import bodies

PyTree = Any


def count_flops(function: Callable[..., Any], *args: Any, loops_once: bool = False) -> float:
    """FLOPs of `function(*args)`, counted from its jaxpr, without compiling or running it.

    A contraction of sizes m × k and k × n counts 2·m·k·n, a convolution likewise, a reduction one
    per input value, other arithmetic one per output value. A scan counts its body once per
    iteration, a `while` once (its length is unknown), a `cond` its most expensive branch, a
    `shard_map` or `pmap` its body once per device of the axes that it names.

    Args:
      function: anything that JAX can trace.
      *args: arrays or `jax.ShapeDtypeStruct`s.
      loops_once: count a scan's body once, as XLA does.

    >>> def layers(w, x):
    ...     return jax.lax.scan(lambda x, _: (x @ w, None), x, length=3)[0]
    >>> count_flops(layers, jnp.ones((8, 8)), jnp.ones((2, 8)))
    768.0
    """
    return _count(jax.make_jaxpr(function)(*args), loops_once)


def _count(jaxpr: AnyJaxpr, loops_once: bool) -> float:
    return sum(_equation(eqn, loops_once) for eqn in jaxpr.eqns)


def _equation(eqn: JaxprEqn, loops_once: bool) -> float:
    name = eqn.primitive.name
    inner = [_count(jaxpr, loops_once) for jaxpr in bodies(eqn)]
    if name == "cond":
        return max(inner, default=0.0)
    if name == "scan" and not loops_once:
        return inner[0] * eqn.params["length"]
    if name == "shard_map":
        # Along the other axes of the mesh, the body is a program over all devices.
        sizes, manual = eqn.params["mesh"].shape, eqn.params["newly_manual_axes"]
        return sum(inner) * math.prod(sizes[axis] for axis in manual)
    if name == "xla_pmap":
        return sum(inner) * eqn.params["global_axis_size"]
    if inner:
        # The jaxpr inside a reduction or a scatter is a function of scalars, not a loop body.
        return sum(inner) if name not in _WITH_SCALAR_FUNCTION else float(_aval(eqn.invars[0]).size)
    if not eqn.outvars:  # an effect alone: jax.debug.print
        return 0.0
    out = _aval(eqn.outvars[0])
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = _aval(eqn.invars[0]).shape
        return 2.0 * out.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = _aval(eqn.invars[1])
        # All axes of the kernel but that of output channels are summed over; the input channels of
        # a grouped kernel are already divided.
        channels = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * out.size * kernel.size / channels
    if not jnp.issubdtype(getattr(out, "dtype", jnp.int32), jnp.inexact) or name in _FREE:
        return 0.0
    if name.startswith(("reduce_", "cum", "arg")):
        return float(_aval(eqn.invars[0]).size)
    return float(out.size)


_WITH_SCALAR_FUNCTION = ("scatter", "scatter-add", "reduce", "reduce_window")
# Primitives that only move values.
# fmt: off
_FREE = frozenset((
    "broadcast_in_dim", "reshape", "transpose", "slice", "dynamic_slice",
    "dynamic_update_slice", "gather", "concatenate", "pad", "squeeze", "expand_dims",
    "rev", "copy", "copy_p", "convert_element_type", "bitcast_convert_type", "iota",
    "select_n", "stop_gradient", "device_put", "split", "tile", "stack", "psum",
    "all_gather", "all_to_all", "ppermute", "pvary", "sharding_constraint",
    "optimization_barrier",
))
# fmt: on


def _aval(v: Any) -> Any:
    """The abstract value of a variable: its shape, dtype and size."""
    return v.aval
