"""Rules whose gradients are not shaped like the parameters, made to look like those that are.

The laws give every rule one gradient for a tree of parameters of any shape. A rule that takes one
gradient per example is given four of them, multiples of the one; a rule for matrices is given every
leaf as a matrix. What it returns has the parameters' shapes again, so that every law applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

FACTORS = (2.0, -0.5, 0.25, 1.0)  # powers of two, so that they round nothing


def adapted(tx: Any, claims: Mapping[str, Any]) -> Any:
    """`tx`, between what the laws give and what it takes; itself where it claims neither."""
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
    """Gradients and parameters as the adapted rule takes them, in NumPy: for its reference."""
    if claims.get("per example"):
        return [np.stack([x.dtype.type(k) * x for k in FACTORS]) for x in gs], ps
    if claims.get("matrices"):
        return [matrix(x) for x in gs], [matrix(x) for x in ps]
    return gs, ps


def examples(x: Any) -> Any:
    return jnp.stack([jnp.asarray(k, x.dtype) * x for k in FACTORS])


def matrix(x: Any) -> Any:
    """Leaves of rank 2 as they are; others as one row, or as their first axis against the rest."""
    rows = x.shape[0] if x.ndim > 1 else 1
    return x.reshape(rows, x.size // rows if rows else 0)


def code(claims: Mapping[str, Any]) -> str:
    """Lines that do the same to the `tx` of a reproducer."""
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
