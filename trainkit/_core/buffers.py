"""Memory that is shared with whoever gave an array."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

PyTree = Any


def owned(tree: PyTree) -> PyTree:
    """The tree with its NumPy arrays in memory of their own.

    On a CPU, JAX computes on the very memory of a NumPy array that it is given, and later than the
    call returns; elsewhere it copies it later. A loader that refills its arrays would change what
    is being computed (`device_put(may_alias=False)` does not help; seen with JAX 0.10 and 0.12).

    >>> mine = np.zeros(2)
    >>> theirs = owned({"x": mine})
    >>> mine[:] = 1
    >>> theirs["x"]
    array([0., 0.])
    """
    return jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, tree)
