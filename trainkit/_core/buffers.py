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


def as_arrays(batch: PyTree) -> PyTree:
    """A batch with arrays of other libraries (PyTorch's tensors) and lists of numbers as NumPy's.

    >>> as_arrays({"label": [1, 2]})
    {'label': array([1, 2])}
    """
    leaves, treedef = jax.tree.flatten(batch, is_leaf=_are_numbers)
    return jax.tree.unflatten(treedef, [_as_array(leaf) for leaf in leaves])


def _as_array(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray | jax.Array) or not (
        _are_numbers(leaf) or hasattr(leaf, "__array__")
    ):
        return leaf
    try:
        return np.asarray(leaf)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"a batch must be of arrays that NumPy can take, not {leaf!r:.60} ({error}); convert "
            "it first."
        ) from None


def _are_numbers(leaf: Any) -> bool:
    """Whether it is a list, or a list of lists, of numbers."""
    if not isinstance(leaf, list) or not leaf:
        return False
    return all(isinstance(x, bool | int | float) or _are_numbers(x) for x in leaf)
