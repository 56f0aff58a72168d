"""Containers of parameters as JSON can hold them."""

from __future__ import annotations

from typing import Any

import jax


def containers(tree: Any) -> Any:
    """A structure of dicts, lists and tuples as JSON; `None` for others."""

    def one(node: Any) -> Any:
        if isinstance(node, int):
            return 0
        if node is None:
            return {"none": []}
        if type(node) is dict and all(isinstance(key, str) for key in node):
            return {"dict": [[key, one(child)] for key, child in node.items()]}
        if type(node) in (list, tuple):
            return {type(node).__name__: [one(child) for child in node]}
        raise TypeError

    try:
        return one(jax.tree.unflatten(tree, range(tree.num_leaves)))
    except TypeError:
        return None


def tree_of(found: Any) -> Any:
    """The structure that `containers` wrote."""

    def one(node: Any) -> Any:
        if node == 0:
            return 0
        ((kind, children),) = node.items()
        if kind == "none":
            return None
        if kind == "dict":
            return {key: one(child) for key, child in children}
        return (list if kind == "list" else tuple)(one(child) for child in children)

    return None if found is None else jax.tree.structure(one(found))


def tuples(x: Any) -> Any:
    """Lists as tuples, which is what JSON made lists of."""
    if isinstance(x, dict):
        return {k: tuples(v) for k, v in x.items()}
    return tuple(tuples(v) for v in x) if isinstance(x, list) else x
