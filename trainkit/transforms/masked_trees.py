"""Masked trees: trees in which other groups' leaves are `optax.MaskedNode`s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

from trainkit._core.paths import named_leaves, some

PyTree = Any


def left_out(leaf: Any) -> bool:
    """Whether a leaf is masked, that is, belongs to another group."""
    return isinstance(leaf, optax.MaskedNode)


def filled(part: PyTree, whole: PyTree) -> PyTree:
    """A masked tree with masked leaves replaced by those of `whole`."""
    return jax.tree.map(lambda p, w: w if left_out(p) else p, part, whole, is_leaf=left_out)


def kept(tree: PyTree, part: PyTree) -> PyTree:
    """A tree, masked where `part` is masked."""
    return jax.tree.map(lambda p, w: p if left_out(p) else w, part, tree, is_leaf=left_out)


def assembled(parts: Sequence[PyTree], params: PyTree, what: str, by: str) -> PyTree:
    """The parameters, with leaves replaced by those of the masked trees of all groups.

    Raises:
      ValueError: there is no masked tree, or two contain the same parameter.
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
