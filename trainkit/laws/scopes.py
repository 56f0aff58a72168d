"""Which rule a leaf moves with: what a rule of two halves does to which leaf, found by trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves
from trainkit.laws.families.matrices.measures import leaf_apart
from trainkit.laws.protocol import build, ordinary

SAME = 1e-4
NEITHER = "none of them"


def leaves_of_all_ranks() -> dict[str, Any]:
    """One leaf of each kind that rules treat differently."""
    rng = np.random.default_rng(7)
    shapes = {"scalar": (), "vector": (6,), "matrix": (4, 6), "row": (1, 6), "stack": (2, 4, 6)}
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


def distance(tx: Any, other: Any, params: Any, at: int) -> float:
    """How far leaf `at` moves from how `other` moves it alone; ∞ if `other` cannot move it."""
    with ordinary():
        try:
            return leaf_apart(tx, build(other), params, at)
        except Exception:  # such as a rule for matrices that is given a vector
            return float("inf")


class Scope(dict[str, str]):
    """{path of a leaf: name of the rule that it moves with}; its text is a table."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{leaf:<{width}}  {rule}" for leaf, rule in self.items())


def scope(tx: Any, rules: Mapping[str, Any], params: Any = None) -> Scope:
    """Which of these rules moves which leaf, found by trial.

        >>> import optax
        >>> from trainkit import laws
        >>> tx = optax.partition({"a": optax.sgd(0.1), "b": optax.adam(0.1)},
        ...                      lambda p: {k: "b" if x.ndim < 2 else "a" for k, x in p.items()})
        >>> print(laws.scope(tx, {"sgd": optax.sgd(0.1), "adam": optax.adam(0.1)}))
        matrix  sgd
        row     sgd
        scalar  adam
        stack   sgd
        vector  adam

    Args:
      tx: a transformation, or a factory without arguments.
      rules: the halves that it may have, by a name; each gets one leaf alone.
      params: the tree; by default a scalar, a vector, a matrix, a 1×n matrix and a stack of two.

    Returns:
      A `Scope`. Leaves that move with no rule have "none of them".
    """
    params = leaves_of_all_ranks() if params is None else params
    tx = build(tx)
    return Scope({
        name: next((rule for rule, other in rules.items()
                    if distance(tx, other, params, at) <= SAME), NEITHER)
        for at, name in enumerate(named_leaves(params))
    })  # fmt: skip
