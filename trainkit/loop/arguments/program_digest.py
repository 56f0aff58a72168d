"""A digest of a program as JAX sees it, the same in every process of one set of versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from trainkit._core.compat import AnyJaxpr, opened
from trainkit._core.identity import digest, lasting
from trainkit._core.jaxprs import bodies


def program_digest(fn: Callable[..., Any], *args: Any) -> str | None:
    """Of what a function computes, with the values that its closures hold.

    Args:
      fn: a pure function.
      *args: arrays, or their shapes.

    Returns:
      The digest; `None` of what cannot be traced with these arguments.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones(3)
    >>> program_digest(jnp.tanh, x) == program_digest(lambda x: jnp.tanh(x), x)
    True
    >>> program_digest(lambda x: 2.0 * x, x) == program_digest(lambda x: 3.0 * x, x)
    False
    """
    try:
        with jax.numpy_dtype_promotion("standard"):
            traced = jax.make_jaxpr(fn)(*args)
        held = [digest(str(lasting(const, "constant"))) for const in _constants(traced)]
    except Exception:  # a rule that needs more than these, such as a line search
        return None
    return digest(_text(traced) + "".join(held))


def _constants(jaxpr: AnyJaxpr) -> Iterator[Any]:
    inner, consts = opened(jaxpr)
    yield from consts
    for eqn in inner.eqns:
        for body in bodies(eqn):
            yield from _constants(body)


def _text(traced: AnyJaxpr) -> str:
    """The program, without what is another in every process."""
    text = re.sub(r"0x[0-9a-f]+", "", str(opened(traced)[0]))
    ordered = lambda found: "{" + ", ".join(sorted(found[1].split(", "))) + "}"
    return re.sub(r"\{([^{}=]*)\}", ordered, text)
