"""Parameter trees with different containers."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Pair(NamedTuple):
    """A user-defined container."""

    first: Any
    second: Any


def structures(dtype: str = "float32") -> dict[str, Any]:
    """Small parameter trees with different containers; all leaves have different values."""
    rng = np.random.default_rng(3)
    draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.dtype(dtype))
    return {
        "nested dicts": {"a": {"b": {"c": draw(2)}, "d": draw(3)}},
        "a tuple": (draw(2), draw(2, 2)),
        "a list": [draw(2), [draw(3)]],
        "a NamedTuple": Pair(draw(2), {"x": draw(3)}),
        "a bare array": draw(3),
        "an empty tree": {},
        "an empty subtree": {"a": draw(2), "none": {}, "nothing": (), "no": None},
        "a scalar leaf": {"s": draw(), "v": draw(2)},
        "a leaf of size 0": {"z": draw(0), "v": draw(2), "m": draw(0, 3)},
        "a 1×1 leaf": {"m": draw(1, 1), "v": draw(1)},
        "a leaf of rank 4": {"k": draw(2, 1, 3, 2)},
    }


def cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), tree)
