"""All that differs between the supported versions of JAX, 0.10.2 and later.

Whoever reads a jaxpr through this module and `trainkit._core.jaxprs` need not know which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core

AnyJaxpr = core.Jaxpr | core.ClosedJaxpr


def opened(jaxpr: AnyJaxpr) -> tuple[core.Jaxpr, list[Any]]:
    """A jaxpr without the values of its constants, and these (one for each `constvar`).

    Up to 0.10 a `ClosedJaxpr` is a `Jaxpr` with the values of its constants; since 0.11 every
    `Jaxpr` has them.
    """
    consts = list(getattr(jaxpr, "consts", ()))
    inner: Any = getattr(jaxpr, "jaxpr", jaxpr)
    return inner, consts


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many operands of a scan are constants and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carried, _ = params["ft_in"].unpack()  # since 0.12
    return len(consts), len(carried)


def expanded(eqn: core.JaxprEqn) -> AnyJaxpr | None:
    """What an equation is in the primitives of 0.10.2; `None` if it is of one.

    Since 0.12 there are primitives more (`log2`, `polynomial`, …), and high-level ones that are
    made of others: `jnp.searchsorted` is one (`jnp.interp` uses it), and `jax.checkpoint`,
    `custom_jvp` and `custom_vjp` are with the flags `jax_remat3`, `jax_custom_jvp3`,
    `jax_custom_vjp3`. With `jax_scan3` a loop is one that writes to references: these stay.

    Returns:
      A jaxpr of the equation's operands and results.
    """
    primitive: Any = eqn.primitive
    written = WRITTEN.get(primitive.name)
    if primitive.name in EQUINOX and primitive.impl.__module__.startswith("equinox."):
        written = primitive.impl
    avals = [v.aval for v in eqn.invars]
    if written is None:
        if not primitive.is_high(*avals, **eqn.params):
            return None
        if any(not hasattr(aval, "shape") for aval in avals):
            return None  # references, or what has no elements
        written = primitive.to_lojax
    return jax.make_jaxpr(lambda *x: written(*x, **eqn.params))(*avals)


def own_gradient(eqn: core.JaxprEqn) -> bool:
    """Whether an equation may have a backward pass of its own, which no jaxpr shows."""
    if eqn.primitive.name.startswith("call_hi_primitive"):
        # These follow from a forward rule, which is linear in tangents, or from their body.
        return type(eqn.params["_prim"]).__name__ not in ("CustomJVPTraced", "RematTraced")
    return eqn.primitive.name.startswith("custom_vjp")


def _log2(x: Any, **_: Any) -> Any:
    return lax.log(x) / np.log(2).astype(x.dtype)


def _one_minus_square(x: Any) -> Any:
    return 1 - x * x


def _polynomial(x: Any, *coefficients: Any, **_: Any) -> Any:
    """Horner's rule; coefficients in ascending order."""
    value = coefficients[-1]
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


def _unstack(x: Any, axis: int) -> list[Any]:
    return [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]


# Primitives of Equinox whose implementation is written in JAX: those of its loops, and identities.
EQUINOX = frozenset(
    ["maybe_set", "select_if_vmap", "nontraceable", "nonbatchable", "nondifferentiable_backward"]
)
# Primitives that 0.10.2 does not use, and what they compute.
WRITTEN: dict[str, Callable[..., Any]] = {
    "log2": _log2,
    "one_minus_square": _one_minus_square,
    "polynomial": _polynomial,
    "unstack": _unstack,
}
