"""Dtypes: arithmetic in float32 or wider, results in the dtypes of the inputs.

In bfloat16, β₂ = .999 rounds to 1, so 1 − β₂ is 0. Update rules therefore compute in float32 for
every storage dtype, and cast results to the dtypes of their inputs. That also keeps the dtypes of a
state fixed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def is_float(x: Any) -> bool:
    """Whether `x` is a floating array, or the shape of one."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def widest(*trees: PyTree) -> np.dtype:
    """The widest floating dtype among the leaves, float32 at least; of complex ones a part's."""
    dtypes = [x.dtype for x in jax.tree.leaves(trees) if hasattr(x, "dtype")]
    wide = any(d in (np.dtype(np.float64), np.dtype(np.complex128)) for d in dtypes)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def upcast(tree: PyTree, dtype: Any = None) -> PyTree:
    """The tree with floats in `dtype`; without it, 8 and 16 bit floats become float32."""

    if dtype is None and not any(is_float(x) and _narrow(x) for x in jax.tree.leaves(tree)):
        return tree

    def one(x: Any) -> Any:
        if not is_float(x):
            return x
        if dtype is not None:
            return x.astype(dtype)
        return x.astype(jnp.float32) if _narrow(x) else x

    return jax.tree.map(one, tree)


def _narrow(x: Any) -> bool:
    return np.dtype(x.dtype).itemsize < 4


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """The tree with the dtypes of `like`, and no weak types."""

    def one(x: Any, reference: Any) -> Any:
        dtype = getattr(reference, "dtype", None)
        if dtype is None:
            dtype = jnp.result_type(reference)
        if jax.dtypes.issubdtype(dtype, jax.dtypes.extended):  # random keys
            return x
        if getattr(x, "dtype", None) == dtype and not getattr(x, "weak_type", False):
            return x
        return jax.lax.convert_element_type(x, dtype)

    return jax.tree.map(one, tree, like)


def scalar_like(value: Any, like: Any) -> jax.Array:
    """A hyper-parameter in the dtype of a leaf."""
    return jnp.asarray(value).astype(like.dtype)


def squared(x: jax.Array) -> jax.Array:
    """|x|², real: the square that second moments are made of, also of complex leaves."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def uphill(grads: PyTree) -> PyTree:
    """What `jax.grad` returns, with complex leaves conjugated: the direction of steepest ascent.

    For z = x + i y JAX's gradient is ∂f/∂x − i ∂f/∂y, along which f does not go up. As Optax's
    documentation of `split_real_and_imaginary` says, it is conjugated before `update`.

    >>> uphill(jax.grad(lambda z: jnp.abs(z) ** 2)(1 + 2j)).tolist()
    (2+4j)
    """
    return jax.tree.map(lambda g: jnp.conj(g) if jnp.iscomplexobj(g) else g, grads)


def own(tree: PyTree, *others: PyTree) -> PyTree:
    """The tree with distinct buffers, none shared with other trees, so that it can be donated."""
    seen = {id(x) for x in jax.tree.leaves(others)}

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or id(x) not in seen:
            seen.add(id(x))
            return x
        return jnp.copy(x)

    return jax.tree.map(one, tree)
