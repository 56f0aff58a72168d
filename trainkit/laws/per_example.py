"""Adapters for rules whose gradients do not have the shapes of the parameters.

The laws pass one gradient with the shapes of the parameters. A rule for per-example gradients gets
four multiples of it. A rule for matrices gets every leaf as a matrix. The updates are converted
back to the shapes of the parameters, so that every law applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

FACTORS = (2.0, -0.5, 0.25, 1.0)  # powers of two, so that multiplication is exact


def adapted(tx: Any, claims: Mapping[str, Any]) -> Any:
    """`tx` as a rule for gradients with the shapes of the parameters, by its claims."""
    if claims.get("per example"):
        return around(tx, each=examples)
    if claims.get("matrices"):
        return around(tx, each=matrix, params=matrix)
    return tx


def around(tx: Any, each: Any, params: Any = lambda x: x) -> Any:
    kind = optax.GradientTransformation
    if isinstance(tx, optax.GradientTransformationExtraArgs):
        kind = optax.GradientTransformationExtraArgs

    def init(p: Any) -> Any:
        return tx.init(jax.tree.map(params, p))

    def update(g: Any, state: Any, p: Any = None, **extra: Any) -> Any:
        p = None if p is None else jax.tree.map(params, p)
        u, state = tx.update(jax.tree.map(each, g), state, p, **extra)
        return jax.tree.map(lambda x, y: x.reshape(jnp.shape(y)), u, g), state

    return kind(init, update)


def as_taken(
    claims: Mapping[str, Any], gs: list[Any], ps: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Gradients and parameters in the form that the rule takes, in NumPy, for its reference."""
    if claims.get("per example"):
        return [np.stack([x.dtype.type(k) * x for k in FACTORS]) for x in gs], ps
    if claims.get("matrices"):
        return [matrix(x) for x in gs], [matrix(x) for x in ps]
    return gs, ps


def examples(x: Any) -> Any:
    return jnp.stack([jnp.asarray(k, x.dtype) * x for k in FACTORS])


def matrix(x: Any) -> Any:
    """A leaf as a matrix: one row if its rank is at most 1, else first axis times others."""
    rows = x.shape[0] if x.ndim > 1 else 1
    return x.reshape(rows, x.size // rows if rows else 0)


def code(claims: Mapping[str, Any]) -> str:
    """Lines of a reproducer that adapt its `tx` in the same way."""
    if claims.get("per example"):
        what, each, params = "one gradient per example", _EXAMPLES, "x"
    elif claims.get("matrices"):
        what, each, params = "matrices", _MATRIX, "matrix(x)"
    else:
        return ""
    name = "examples" if claims.get("per example") else "matrix"
    return (
        f"\n# It takes {what}, and is given them.\n{each}rule = tx\n"
        "def update(g, s, p=None, **more):\n"
        f"    p = None if p is None else jax.tree.map(lambda x: {params}, p)\n"
        f"    u, s = rule.update(jax.tree.map({name}, g), s, p, **more)\n"
        "    return jax.tree.map(lambda x, y: x.reshape(jnp.shape(y)), u, g), s\n"
        "tx = optax.GradientTransformation(\n"
        f"    lambda p: rule.init(jax.tree.map(lambda x: {params}, p)), update\n)\n"
    )


_EXAMPLES = f"def examples(x):\n    return jnp.stack([k * x for k in {FACTORS}]).astype(x.dtype)\n"
_MATRIX = (
    "def matrix(x):\n    rows = x.shape[0] if x.ndim > 1 else 1\n"
    "    return x.reshape(rows, x.size // rows if rows else 0)\n"
)
