"""Differences between the supported versions of JAX, 0.10.2 and later.

Code that inspects jaxprs with this module and `trainkit._core.jaxprs` works with every version.
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
    """A jaxpr without the values of its constants, and these values (one per `constvar`).

    Up to 0.10 a `ClosedJaxpr` is a `Jaxpr` with the values of its constants; since 0.11 every
    `Jaxpr` has them.
    """
    consts = list(getattr(jaxpr, "consts", ()))
    inner: Any = getattr(jaxpr, "jaxpr", jaxpr)
    return inner, consts


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """The numbers of constant and of carried operands of a scan."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carried, _ = params["ft_in"].unpack()  # since 0.12
    return len(consts), len(carried)


def expanded(eqn: core.JaxprEqn) -> AnyJaxpr | None:
    """An equation written in the primitives of 0.10.2; `None` if its primitive is one of them.

    JAX 0.12 has new primitives (`log2`, `polynomial`, …), and high-level ones that are composed of
    others: `jnp.searchsorted` (used by `jnp.interp`), and, with the flags `jax_remat3`,
    `jax_custom_jvp3` and `jax_custom_vjp3`, `jax.checkpoint`, `custom_jvp` and `custom_vjp`. With
    `jax_scan3` a loop writes to references; such equations are not expanded.

    Returns:
      A jaxpr from the equation's operands to its results.
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
            return None  # references, or values without elements
        written = primitive.to_lojax
    return jax.make_jaxpr(lambda *x: written(*x, **eqn.params))(*avals)


def own_gradient(eqn: core.JaxprEqn) -> bool:
    """Whether an equation may have a custom backward pass, which is not visible in its jaxpr."""
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


# Equinox primitives (for loops, and identities) whose implementation is written in JAX.
EQUINOX = frozenset(
    ["maybe_set", "select_if_vmap", "nontraceable", "nonbatchable", "nondifferentiable_backward"]
)
# Primitives that 0.10.2 does not have, and functions that compute them.
WRITTEN: dict[str, Callable[..., Any]] = {
    "log2": _log2,
    "one_minus_square": _one_minus_square,
    "polynomial": _polynomial,
    "unstack": _unstack,
}
