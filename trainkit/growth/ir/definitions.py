"""Primitives of other libraries, which are read as the programs that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.extend import core

from trainkit._core import compat
from trainkit.growth.ir.primitives import TABLE


def define_primitive(primitive: core.Primitive, fn: Callable[..., Any] | None = None) -> None:
    """Says what a primitive of your own or of another library computes, in JAX's primitives.

    Growth knows nothing of a primitive that is not JAX's, and refuses what grows through it.
    Defined so, it is read as the program that it stands for, in every plan that is made afterwards.

    Args:
      primitive: not one of JAX's own.
      fn: `fn(*operands, **params)`, its result, or a list of them where it has several; `None`: its
        implementation (`def_impl`), where that is written in JAX. Its gradient must be that of `fn`
        too, or linear in the gradients of the results.

    Raises:
      ValueError: the primitive is known already.

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
        raise ValueError(f"primitive: {primitive.name!r} is one that growth knows already.")
    compat.WRITTEN[primitive.name] = primitive.impl if fn is None else fn
