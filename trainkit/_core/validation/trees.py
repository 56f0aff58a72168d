"""Trees that are refused: which leaf differs from what was expected, and how."""

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
    """Refuses an update without parameters where the rule needs them."""
    if params is None:
        raise ValueError(
            f"{of} needs the parameters: call update(updates, state, params), not "
            "update(updates, state)."
        )


def params_are_floating(params: PyTree) -> None:
    """Raises TypeError, naming the leaf, unless every leaf is a floating (or complex) array."""
    if params is None or not jax.tree.leaves(params):
        raise TypeError(
            f"params must be a tree of arrays, such as {{'w': array}}, not {params!r}: there are "
            "no parameters in it to train."
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
    """Name -> what is found and what is expected in words, for every leaf that differs.

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
    """Refuses updates of another tree or other shapes, naming the first leaf that differs."""
    # Names cost more than leaves: they are made only where there is something to name.
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
        raise ValueError(f"{of}: the updates have {a} at {name!r}, where the {what} has {b}.")
    raise ValueError(
        f"{of}: the updates and the {what} have the same leaves in different containers: {here} "
        f"and {there}."
    )


def same_structure(old: PyTree, new: PyTree, what: str, by: str, dtypes: bool = True) -> None:
    """Refuses what a function has changed in a tree that it must give back as it was."""
    before: Any = jax.tree.structure(old)
    after: Any = jax.tree.structure(new)
    mend = f"{by} must give {what} back with the structure, shapes and dtypes that it had"
    changed = differences(named_leaves(new), named_leaves(old), dtypes=dtypes)
    for name, (a, b) in changed.items():
        raise ValueError(f"{by} gives {a} for {what}/{name}, which must be {b}; {mend}.")
    if before != after:
        raise ValueError(f"{by} changes the structure of {what} from {before} to {after}; {mend}.")


def leading_size(tree: PyTree, what: str, axis: int = 0) -> int:
    """The size that all leaves have on an axis, that of the examples.

    Raises:
      ValueError: no leaves, one without the axis or of another size; it is named.
      TypeError: one that is no array.
    """
    sizes: dict[str, int] = {}
    for name, leaf in named_leaves(tree).items():
        name = f"{what}/{name}" if name else what
        shape = getattr(leaf, "shape", None)
        if shape is None:
            raise TypeError(f"{name} must be an array, not {type(leaf).__name__}.")
        if len(shape) <= axis:
            raise ValueError(f"{name} has shape {shape}; its axis {axis} must be the examples'.")
        sizes[name] = shape[axis]
    if not sizes:
        raise ValueError(f"the {what} has no arrays in it.")
    counts = list(sizes.values())
    usual = max(dict.fromkeys(counts), key=counts.count)  # of equals the first
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
