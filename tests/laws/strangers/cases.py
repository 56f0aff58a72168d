"""What the rules share, and the list of them: one right rule, and the same with each fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tests.laws.mutants import Mutant

f32 = jnp.float32
tmap = jax.tree.map


def zeros(params, dtype=None):
    return tmap(lambda p: jnp.zeros(p.shape, dtype or p.dtype), params)


def pairs(tree, like, n):
    """A tree of n-tuples as n trees."""
    shape = jax.tree.structure(like)
    leaves = shape.flatten_up_to(tree)
    return tuple(shape.unflatten([leaf[i] for leaf in leaves]) for i in range(n))


class Cases:
    """Rules of one file: those without a fault, and those with one."""

    def __init__(self):
        self.right: list[Mutant] = []
        self.wrong: list[Mutant] = []

    def add(
        self,
        name: str,
        maker: Callable[[str | None], Any],
        faults: Mapping[str, str],
        *,
        like: str | None = None,
        h: dict[str, Any] | None = None,
        claims: Any = None,
        extra: Any = None,
        schedule: bool = False,
    ) -> None:
        """`maker(fault)` returns a factory as a person would write it, right for `None`.

        `faults` has one line about each; `claims` may be a function of the factory.
        """
        for fault, words in {None: "", **faults}.items():
            make = maker(fault)
            said = claims(make) if callable(claims) else claims
            kept = self.wrong if fault else self.right
            kept.append(
                Mutant(f"{name}: {words}" if fault else name, make, like, h, said,
                       schedule=schedule, extra_args=extra)
            )  # fmt: skip
