"""Parts of a tree: what masks and groups leave out, and how parts make a whole again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

from trainkit._core.paths import named_leaves, some

PyTree = Any


def left_out(leaf: Any) -> bool:
    """Whether a place in a tree belongs to another group (Optax's `MaskedNode`)."""
    return isinstance(leaf, optax.MaskedNode)


def filled(part: PyTree, whole: PyTree) -> PyTree:
    """The tree of which a group knows a part, the rest from `whole`."""
    return jax.tree.map(lambda p, w: w if left_out(p) else p, part, whole, is_leaf=left_out)


def kept(tree: PyTree, part: PyTree) -> PyTree:
    """The tree without what the part leaves out."""
    return jax.tree.map(lambda p, w: p if left_out(p) else w, part, tree, is_leaf=left_out)


def assembled(parts: Sequence[PyTree], params: PyTree, what: str, by: str) -> PyTree:
    """The parameters, in their place what the parts hold for them; the parts are groups'.

    Raises:
      ValueError: no part, or two that hold the same parameter.
    """
    names = [name for part in parts for name in named_leaves(part)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not parts or twice:
        raise ValueError(
            f"the state holds {len(parts)} {what}"
            + (f", more than one of them for {some(twice)}" if twice else "")
            + f"; expected one for each parameter: make it with {by}."
        )
    for part in parts:
        params = filled(part, params)
    return params
