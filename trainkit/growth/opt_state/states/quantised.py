"""Moments stored in 8 bits: dequantised, changed, and quantised again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trainkit.growth.errors import GrowthError

PyTree = Any


def through(visit: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`visit` for trees in which some leaves are `trainkit.transforms.Quantised`."""
    # If the module is not imported, there are no quantised leaves.
    module = sys.modules.get("trainkit.transforms.wrappers.quantise")
    if module is None:
        return visit
    is_one = lambda x: isinstance(x, module.Quantised)

    def inside(kind: Any, where: str, tree: PyTree, target: PyTree) -> PyTree:
        packed = [x for x in jax.tree.leaves((tree, target), is_leaf=is_one) if is_one(x)]
        if not packed:
            return visit(kind, where, tree, target)
        block = _block(packed, where)
        signed = module.SIGNED.get(where.rpartition(".")[2], True)
        opened = jax.tree.map(
            lambda x: module.dequantise(x, block, signed=signed) if is_one(x) else x,
            tree,
            is_leaf=is_one,
        )
        plain = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.codes.shape, jnp.float32) if is_one(x) else x,
            target,
            is_leaf=is_one,
        )
        changed = visit(kind, where, opened, plain)
        return jax.tree.map(
            lambda spec, x: module.quantise(x, block, signed=signed) if is_one(spec) else x,
            target,
            changed,
            is_leaf=is_one,
        )

    return inside


def _block(packed: list[Any], where: str) -> int:
    """A block length that fits all quantised leaves."""
    for block in (256, *(2**i for i in range(3, 20))):
        if all(-(-x.codes.size // block) == x.scales.size for x in packed):
            return block
    raise GrowthError(f"{where}: to grow, the block length of 8-bit moments must be a power of two")
