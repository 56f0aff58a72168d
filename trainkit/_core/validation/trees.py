"""Checks of trees of arrays; messages name the first leaf that differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name

PyTree = Any


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype that an array has inside a jitted function."""
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))


def need_params(of: str, params: PyTree) -> None:
    """Raises ValueError for an update without parameters, for rules that need them."""
    if params is None:
        raise ValueError(
            f"{of} needs the parameters: call update(updates, state, params), not "
            "update(updates, state)."
        )


def params_are_floating(params: PyTree) -> None:
    """Raises TypeError, naming the leaf, unless every leaf is a floating (or complex) array."""
    if params is None or not jax.tree.leaves(params):
        raise TypeError(
            f"params must be a tree of arrays, such as {{'w': array}}, not {params!r}: it contains "
            "no parameters."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            found = type(leaf).__name__ if dtype is None else f"an array of {dtype}"
            where = f"params/{path_name(path)}" if path else "params"
            raise TypeError(
                f"{where} is {found}, but it must be a floating array; parameters "
                "are differentiated. Keep counters, masks and functions in "
                "model_state or in the loss's closure (for Equinox: equinox.partition(model, "
                "equinox.is_inexact_array))."
            )


def differences(
    found: Mapping[str, Any], expected: Mapping[str, Any], *, dtypes: bool
) -> dict[str, tuple[str, str]]:
    """Name -> (found, expected) in words, for every leaf that differs.

    >>> a, b = {"w": jnp.ones(2)}, {"w": jnp.ones(3), "b": jnp.ones(1)}
    >>> differences(a, b, dtypes=False)
    {'w': ('shape (2,)', 'shape (3,)'), 'b': ('nothing', 'shape (1,)')}
    """
    describe = _with_dtype if dtypes else _shape
    words = lambda tree, name: describe(tree[name]) if name in tree else "nothing"
    names = dict.fromkeys([*found, *expected])
    pairs = {name: (words(found, name), words(expected, name)) for name in names}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


def same_tree(found: PyTree, expected: PyTree, what: str, of: str) -> None:
    """Raises ValueError for updates with another structure or other shapes than expected."""
    # Names are expensive, so they are computed only if there is a difference.
    here: Any = jax.tree.structure(found)
    there: Any = jax.tree.structure(expected)
    if here == there and all(
        jnp.shape(a) == jnp.shape(b)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ):
        return
    for name, (a, b) in differences(
        named_leaves(found), named_leaves(expected), dtypes=False
    ).items():
        raise ValueError(f"{of}: the updates have {a} at {name!r}, but the {what} has {b}.")
    raise ValueError(
        f"{of}: the updates and the {what} have the same leaves, but different tree structures: "
        f"{here} and {there}."
    )


def same_structure(old: PyTree, new: PyTree, what: str, by: str, dtypes: bool = True) -> None:
    """Raises ValueError unless a returned tree has the old structure, shapes and dtypes."""
    before: Any = jax.tree.structure(old)
    after: Any = jax.tree.structure(new)
    hint = f"{by} must return {what} with unchanged structure, shapes and dtypes"
    changed = differences(named_leaves(new), named_leaves(old), dtypes=dtypes)
    for name, (a, b) in changed.items():
        raise ValueError(f"{by} returns {a} for {what}/{name}, which must be {b}; {hint}.")
    if before != after:
        raise ValueError(f"{by} changes the structure of {what} from {before} to {after}; {hint}.")


def leading_size(tree: PyTree, what: str, axis: int = 0) -> int:
    """The common size of all leaves along an axis: the number of examples.

    Raises:
      ValueError: there are no leaves, or a leaf lacks the axis or has another size.
      TypeError: a leaf is not an array.
    """
    sizes: dict[str, int] = {}
    for name, leaf in named_leaves(tree).items():
        name = f"{what}/{name}" if name else what
        shape = getattr(leaf, "shape", None)
        if shape is None:
            raise TypeError(
                f"{name} must be an array, not {type(leaf).__name__}; make it one: np.asarray(…)."
            )
        if len(shape) <= axis:
            raise ValueError(
                f"{name} has shape {shape}; its axis {axis} must be the examples. Repeat for each "
                "what is one for all, or keep it out of the batch."
            )
        sizes[name] = shape[axis]
    if not sizes:
        raise ValueError(f"the {what} contains no arrays.")
    counts = list(sizes.values())
    usual = max(dict.fromkeys(counts), key=counts.count)  # the most frequent, or the first of them
    for name, size in sizes.items():
        if size != usual:
            other = next(n for n, s in sizes.items() if s == usual)
            raise ValueError(
                f"{name} has {size} examples on its axis {axis}, but {other} has {usual}; all "
                f"leaves of the {what} must have the same number."
            )
    return usual


def _shape(x: Any) -> str:
    return f"shape {np.shape(x)}"


def _with_dtype(x: Any) -> str:
    dtype = getattr(x, "dtype", None)
    return f"{jnp.asarray(x).dtype if dtype is None else dtype}{list(np.shape(x))}"
