"""Adam-mini: one second moment for each block of a leaf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core.dtypes import scalar_like, squared
from trainkit._core.paths import compiled, path_name
from trainkit.transforms.rule import rule
from trainkit.transforms.stacks import Stacked, per_tensor

PyTree = Any


class AdamMiniState(NamedTuple):
    """State of `adam_mini`.

    Attributes:
      count: int32 scalar, the updates made.
      mu: first moment, one number an entry.
      nu: second moment, one number a block: the axes that a block goes along have length 1.
    """

    count: Any  # an array; tuples have a method of this name
    mu: PyTree
    nu: PyTree


@rule(needs_params=True)
@per_tensor
def adam_mini(
    learning_rate: Any,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    blocks: Mapping[str, tuple[int, ...]] | None = None,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """Adam-mini: AdamW with ν ← β₂ ν + (1 − β₂) mean(g²) over each block of a leaf.

    A block of a kernel [in, out] is what goes into one output (its last axis counts the blocks); a
    vector or a scalar is one block. `blocks` says otherwise: {regular expression: the axes that
    count the blocks}, the first that is found in a leaf's path, after its layer axes where it is
    `stacked`. In a transformer the paper has one block for each head of queries and keys
    (`{"query|key": (1,)}` for kernels [in, heads, size]), each output of values, projections and
    MLPs, and each token of embeddings and the output layer (`{"embedding": (0,)}`). ν then needs
    one number a block, so that the state is about half of Adam's. Not in Optax.

    Raises:
      ValueError: `blocks` is no regular expression, or names an axis that a leaf has not.

    >>> import jax.numpy as jnp
    >>> tx, p = adam_mini(1.0, eps=0.0), jnp.ones((2, 2))
    >>> u = tx.update(jnp.array([[1.0, 1.0], [7.0, 1.0]]), tx.init(p), p)[0]  # over √25 and 1
    >>> [[round(x, 3) for x in row] for row in u.tolist()]
    [[-0.2, -1.0], [-1.4, -1.0]]

    Zhang et al., Adam-mini: Use Fewer Learning Rates To Gain More, 2024.
    """
    patterns = list(zip(compiled(blocks or {}), (blocks or {}).items(), strict=True))

    def within(path: Any, x: Any) -> tuple[int, ...]:
        """The axes that a block goes along."""
        name = path_name(path)
        found = (item for regex, item in patterns if regex.search(name))
        default = (x.ndim - 1,) if x.ndim > 1 else ()
        pattern, counted = next(found, ("", default))
        if any(not -x.ndim <= a < x.ndim for a in counted):
            raise ValueError(
                f"adam_mini: blocks={{{pattern!r}: {counted}}} matches {name!r}, whose shape is "
                f"{x.shape}: it has no such axis."
            )
        return tuple(a for a in range(x.ndim) if a not in [c % x.ndim for c in counted])

    def init(params: PyTree) -> AdamMiniState:
        def second(path: Any, p: Any) -> jax.Array:
            along = within(path, p)
            return jnp.zeros([1 if a in along else n for a, n in enumerate(p.shape)], p.dtype)

        nu = jax.tree_util.tree_map_with_path(second, params)
        return AdamMiniState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), nu)

    def update(updates: PyTree, state: AdamMiniState, params: PyTree = None) -> Any:
        count = optax.safe_increment(state.count)

        def power(path: Any, g: jax.Array, v: jax.Array) -> jax.Array:
            size = max(g.size // max(v.size, 1), 1)
            total = jnp.sum(squared(g), axis=within(path, g), keepdims=True)
            return b2 * v + (1 - b2) * (total / size)

        def step(m: jax.Array, v: jax.Array) -> jax.Array:
            hat = lambda x, b: x / scalar_like(1 - b**count, x)
            return hat(m, b1) / (jnp.sqrt(hat(v, b2)) + eps)

        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree_util.tree_map_with_path(power, updates, state.nu)
        return jax.tree.map(step, mu, nu), AdamMiniState(count, mu, nu)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
