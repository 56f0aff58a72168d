"""Norms and hyper-parameters for the metrics of a step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import path_name
from trainkit.step.precision import at_least_float32

PyTree = Any


def global_norm(tree: PyTree) -> jax.Array:
    """√Σ|x|² over all leaves, in float32 or wider."""
    squares = []
    for x in jax.tree.leaves(tree):
        x = x.astype(at_least_float32(x.dtype))
        squares.append(jnp.sum(jnp.real(x * jnp.conj(x))))
    if not squares:
        return jnp.zeros((), jnp.float32)
    widest = max((s.dtype for s in squares), key=lambda dtype: jnp.finfo(dtype).bits)
    return jnp.sqrt(jnp.stack([s.astype(widest) for s in squares]).sum())


def hyperparams(opt_state: PyTree) -> dict[str, jax.Array]:
    """Name -> scalar, for every `.hyperparams` dict in the optimizer state.

    These are the values that the last update used. If two states use the same name, the path of
    the state precedes it.
    """
    found = found_hyperparams(opt_state)
    names = [name for *_, name, _ in found]
    return {
        name if names.count(name) == 1 else f"{path}/{name}": value
        for path, _, name, value in found
    }


def found_hyperparams(opt_state: PyTree) -> list[tuple[str, tuple[str, ...], str, jax.Array]]:
    """Path of the state, the keys of dicts in it, name and value, of each hyper-parameter."""
    found: list[tuple[str, tuple[str, ...], str, jax.Array]] = []

    def visit(node: Any, path: str, keys: tuple[str, ...]) -> None:
        values = getattr(node, "hyperparams", None)
        if isinstance(values, dict):
            for name, value in values.items():
                if jnp.shape(value) == () and hasattr(value, "dtype"):
                    found.append((path, keys, name, value))
        children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
        for key, child in children:
            name = path_name(key)
            # An array is its own only child, at the empty path.
            if key and name not in ("hyperparams", "hyperparams_states"):
                labels = [name] if isinstance(key[0], jax.tree_util.DictKey) else []
                visit(child, f"{path}/{name}" if path else name, (*keys, *labels))

    visit(opt_state, "", ())
    return found
