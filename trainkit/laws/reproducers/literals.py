"""Values as Python expressions, for stand-alone programs."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class CannotWrite(Exception):
    """The value has no stand-alone Python source."""


def literal(value: Any) -> str:
    """`value` as a Python expression with jnp, optax and the built-ins.

    Raises:
      CannotWrite: there is no such expression.
    """
    if value is None or isinstance(value, bool | int | str | complex):
        return repr(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"float('{value}')"
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return f"jax.random.wrap_key_data({literal(jax.random.key_data(jnp.asarray(value)))})"
        array = np.asarray(value)
        dtype = jnp.dtype(array.dtype).name
        wide = array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array
        if array.size == 0:
            return f"jnp.zeros({array.shape}, '{dtype}')"
        text = repr(wide.tolist()).replace("nan", "jnp.nan").replace("inf", "jnp.inf")
        return f"jnp.array({text}, '{dtype}')"
    if isinstance(value, np.dtype | type) and is_dtype(value):
        return f"jnp.dtype('{jnp.dtype(value).name}')"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        name = type(value).__name__
        fields = zip(value._fields, value, strict=True)
        return f"{name}({', '.join(f'{k}={literal(v)}' for k, v in fields)})"
    if isinstance(value, tuple):
        return "(" + "".join(literal(v) + ", " for v in value) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(literal(v) for v in value) + "]"
    raise CannotWrite(repr(value))


def is_literal(value: Any) -> bool:
    """Whether a value is a number, a text, an array or a dtype."""
    plain = (bool, int, float, complex, str, jax.Array, np.ndarray, np.generic, type(None))
    return is_dtype(value) or (isinstance(value, plain) and not isinstance(value, enum.Enum))


def is_dtype(value: Any) -> bool:
    """Whether a value is a dtype or scalar type. (np.dtype accepts other classes, as object.)"""
    if isinstance(value, np.dtype):
        return True
    is_scalar = isinstance(value, type) and issubclass(value, np.generic)
    return is_scalar or (
        isinstance(value, type) and isinstance(getattr(value, "dtype", 0), np.dtype)
    )


def tree_code(tree: Any) -> str:
    """A tree as an expression; user-defined containers become tuples."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return tree_code(tuple(tree))
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k!r}: {tree_code(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, tuple):
        return "(" + "".join(tree_code(v) + ", " for v in tree) + ")"
    if isinstance(tree, list):
        return "[" + ", ".join(tree_code(v) for v in tree) + "]"
    return literal(tree)


def setup(params: Any, grads: Any) -> str:
    return f"params = {tree_code(params)}\ngrads = {tree_code(grads)}\n"
