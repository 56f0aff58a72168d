"""Jaxprs: what is inside of an equation, and all equations of a program.

Up to JAX 0.10 a `ClosedJaxpr` is a `Jaxpr` with the values of its constants; since 0.11 every
`Jaxpr` has them. Whoever reads a jaxpr through this module need not know which it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jax.extend import core

AnyJaxpr = core.Jaxpr | core.ClosedJaxpr


def opened(jaxpr: AnyJaxpr) -> tuple[core.Jaxpr, list[Any]]:
    """A jaxpr without the values of its constants, and these (one for each `constvar`)."""
    consts = list(getattr(jaxpr, "consts", ()))
    inner: Any = getattr(jaxpr, "jaxpr", jaxpr)
    return inner, consts


def bodies(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    """The jaxprs among an equation's parameters: bodies of loops, branches, called functions.

    What a primitive keeps as a Python function (the backward pass of a `custom_vjp`) has none, nor
    what it hides in objects of its own (the index maps of a `pallas_call`).

    >>> import jax
    >>> fn = lambda x: jax.lax.cond(x > 0, lambda x: x + 1, lambda x: x * 2, x)
    >>> for body in bodies(jax.make_jaxpr(fn)(1.0).eqns[-1]):
    ...     print([eqn.primitive.name for eqn in body.eqns])
    ['mul']
    ['add']
    """
    return list(core.jaxprs_in_params(eqn.params))


def equations(jaxpr: AnyJaxpr) -> Iterator[core.JaxprEqn]:
    """Every equation of a jaxpr, each before those of its bodies.

    >>> import jax
    >>> fn = lambda x: jax.jit(lambda x: x + 1)(x) * 2
    >>> [eqn.primitive.name for eqn in equations(jax.make_jaxpr(fn)(1.0))]
    ['jit', 'add', 'mul']
    """
    for eqn in jaxpr.eqns:
        yield eqn
        for body in bodies(eqn):
            yield from equations(body)


def at_line(jaxpr: AnyJaxpr, eqn: core.JaxprEqn) -> AnyJaxpr:
    """A jaxpr that replaces an equation: all of it is of the line that the equation is of."""
    inner, consts = opened(jaxpr)
    lines = [e.replace(source_info=eqn.source_info) for e in inner.eqns]
    return core.ClosedJaxpr(inner.replace(eqns=lines), consts)
