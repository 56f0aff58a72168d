"""NumPy arrays whose memory JAX may share with the caller."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

PyTree = Any


def owned(tree: PyTree) -> PyTree:
    """The tree with copies of its NumPy arrays.

    On a CPU, JAX computes on the memory of a NumPy argument itself, possibly after the call has
    returned; on other devices it copies the array later. A loader that reuses its arrays would then
    change the computation. (`device_put(may_alias=False)` does not help; seen in JAX 0.10 and
    0.12.)

    >>> mine = np.zeros(2)
    >>> theirs = owned({"x": mine})
    >>> mine[:] = 1
    >>> theirs["x"]
    array([0., 0.])
    """
    return jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, tree)
