"""Definitions of primitives of other libraries, by functions of JAX primitives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.extend import core

from trainkit._core import compat
from trainkit.growth.ir.primitives import TABLE


def define_primitive(primitive: core.Primitive, fn: Callable[..., Any] | None = None) -> None:
    """Defines a custom primitive by a function of JAX primitives.

    Growth has no rule for a custom primitive, and refuses to grow an axis through it. After this
    call, all plans replace the primitive by the traced function.

    Args:
      primitive: a primitive that is not one of JAX's own.
      fn: `fn(*operands, **params)`, which returns its result, or a list if it has several results.
        `None`: its implementation (`def_impl`), if that is written in JAX. The gradient of the
        primitive must be that of `fn`, or linear in the gradients of the results.

    Raises:
      ValueError: growth already has traits for the primitive.

    >>> import jax, jax.numpy as jnp
    >>> from jax.extend.core import Primitive
    >>> from trainkit import growth
    >>> marked = Primitive("marked")  # the identity, for a debugger
    >>> _ = marked.def_impl(lambda x: x)
    >>> _ = marked.def_abstract_eval(lambda x: x)
    >>> growth.define_primitive(marked)
    >>> net = lambda p, x: marked.bind(jnp.tanh(x @ p["in"])) @ p["out"]
    >>> of = lambda n: {"in": jnp.ones((3, n)), "out": jnp.ones((n, 2))}
    >>> growth.plan(net, net, of(4), of(8), jnp.ones((5, 3))).leaves[1].big
    (8, 2)
    """
    if primitive.name in TABLE:
        raise ValueError(f"primitive={primitive.name!r} must not be a primitive of JAX.")
    compat.WRITTEN[primitive.name] = primitive.impl if fn is None else fn
