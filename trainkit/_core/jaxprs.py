"""Jaxprs: the bodies of an equation, and all equations of a program."""

from __future__ import annotations

from collections.abc import Iterator

from jax.extend import core

from trainkit._core.compat import AnyJaxpr, expanded, opened


def bodies(eqn: core.JaxprEqn) -> list[AnyJaxpr]:
    """The jaxprs of an equation: bodies of loops, branches, called functions, and the expansion of
    a high-level primitive.

    Python functions in parameters (the backward pass of a `custom_vjp`) and jaxprs inside other
    objects (the index maps of a `pallas_call`) are not included.

    >>> import jax
    >>> fn = lambda x: jax.lax.cond(x > 0, lambda x: x + 1, lambda x: x * 2, x)
    >>> for body in bodies(jax.make_jaxpr(fn)(1.0).eqns[-1]):
    ...     print([eqn.primitive.name for eqn in body.eqns])
    ['mul']
    ['add']
    """
    body = expanded(eqn)
    return list(core.jaxprs_in_params(eqn.params)) if body is None else [body]


def held(eqn: core.JaxprEqn) -> AnyJaxpr:
    """The only jaxpr among an equation's parameters, with the values of its constants."""
    (body,) = [p for p in eqn.params.values() if isinstance(p, AnyJaxpr)]
    return body


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
    """The jaxpr with the source line of `eqn`, which it replaces, in all its equations."""
    inner, consts = opened(jaxpr)
    lines = [e.replace(source_info=eqn.source_info) for e in inner.eqns]
    return core.ClosedJaxpr(inner.replace(eqns=lines), consts)
