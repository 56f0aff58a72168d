"""Dion: orthonormal steps of a low rank, and a momentum that keeps what they leave over."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.counts import rounded_up
from trainkit._core.dtypes import scalar_like, squared
from trainkit.transforms.noise import key_data
from trainkit.transforms.rule import rule
from trainkit.transforms.stacks import Stacked, per_tensor

PyTree = Any


class DionState(NamedTuple):
    """State of `dion`.

    Attributes:
      count: int32 scalar, the updates made.
      mu: for matrices the momentum with what steps left over; for other leaves Adam's μ.
      nu: Adam's ν of other leaves; `None` for matrices.
      right_factor: for matrices [in, out] the factor on the side of the inputs, [in, rank]; `None`
        for other leaves.
    """

    count: Any  # an array; tuples have a method of this name
    mu: PyTree
    nu: PyTree
    right_factor: PyTree


@rule(needs_params=True)
@per_tensor
def dion(
    learning_rate: Any,
    b1: float = 0.95,
    eps: float = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    rank_fraction: float = 0.25,
    adam_b1: float = 0.9,
    adam_b2: float = 0.95,
    key: jax.Array | int = 0,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """Dion: θ ← θ − η (√(out/in) Q Pᵀ + λ θ) for matrices [in, out]; AdamW for every other leaf.

    B = μ + g; P = the Q of the QR decomposition of Bᵀ Q₋₁, [out, r]; R = B P, [in, r];
    μ ← B − (1 − β₁) R Pᵀ; Q = R with columns of length 1. That is one step of the power iteration
    for the r largest singular values of B, begun where the last one ended, and their part of the
    momentum decays by β₁ while the rest waits. r is `rank_fraction` of the shorter side, rounded
    up. A column of R that is 0, which has no direction, makes no step, and Q keeps the one before.
    The first Q is drawn with `key`, alike for all matrices of one shape. Embeddings and the output
    layer are matrices too, which the authors train with other rules: say so with `groups`. The
    paper has W as [out, in]. Not in Optax.

    Raises:
      ValueError: `rank_fraction` is not in (0, 1].

    >>> import jax.numpy as jnp
    >>> tx, p = dion(1.0, rank_fraction=1.0), jnp.eye(2)
    >>> u = tx.update(jnp.array([[3.0, 0.0], [0.0, 3.0]]), tx.init(p), p)[0]  # equal values: exact
    >>> [[round(x, 3) + 0.0 for x in row] for row in u.tolist()]
    [[-1.0, 0.0], [0.0, -1.0]]

    Ahn et al., Dion: Distributed Orthonormalized Updates, 2025, algorithm 1.
    """
    validation.number("rank_fraction", rank_fraction, "dion", above=0, most=1)

    def first(p: jax.Array) -> jax.Array:
        rank = rounded_up(float(rank_fraction) * min(p.shape))
        own = jax.random.fold_in(jax.random.wrap_key_data(key_data(key)), p.shape[0])
        own = jax.random.fold_in(own, p.shape[1])
        # In float32 for every dtype, so that runs in two dtypes begin alike.
        return jax.random.normal(own, (p.shape[0], rank), jnp.float32).astype(p.dtype)

    def init(params: PyTree) -> DionState:
        return DionState(
            count=jnp.zeros((), jnp.int32),
            mu=jax.tree.map(jnp.zeros_like, params),
            nu=jax.tree.map(lambda p: None if _is_matrix(p) else jnp.zeros_like(p), params),
            right_factor=jax.tree.map(lambda p: first(p) if _is_matrix(p) else None, params),
        )

    def update(updates: PyTree, state: DionState, params: PyTree = None) -> Any:
        treedef: Any
        leaves, treedef = jax.tree.flatten(updates)
        t = optax.safe_increment(state.count)

        def adam(g: jax.Array, m: jax.Array, v: jax.Array) -> Any:
            m, v = adam_b1 * m + (1 - adam_b1) * g, adam_b2 * v + (1 - adam_b2) * squared(g)
            hat = lambda x, b: x / scalar_like(1 - b**t, x)
            return hat(m, adam_b1) / (jnp.sqrt(hat(v, adam_b2)) + eps), m, v, None

        slots = (treedef.flatten_up_to(slot) for slot in state[1:])
        rows = [
            adam(g, m, v) if right is None else _dion_leaf(g, m, right, b1)
            for g, m, v, right in zip(leaves, *slots, strict=True)
        ]
        columns = zip(*rows, strict=True) if rows else [()] * 4
        out, mu, nu, right = (treedef.unflatten(list(column)) for column in columns)
        return out, DionState(t, mu, nu, right)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _is_matrix(x: jax.Array) -> bool:
    return x.ndim == 2 and x.size > 0


def _dion_leaf(g: jax.Array, m: jax.Array, right: jax.Array, b1: Any) -> Any:
    """The update of a matrix [in, out], its new momentum, no second moment, its new factor."""
    dot = lambda x, y: jnp.matmul(x, y, precision="highest")
    b = m + g
    left = jnp.linalg.qr(dot(b.conj().T, right))[0]
    image = dot(b, left)
    lengths = jnp.sqrt(jnp.sum(squared(image), axis=0))
    # Below this a column is the rounding of the longest one.
    known = lengths > jnp.finfo(g.dtype).eps * max(g.shape) * jnp.max(lengths)
    columns = image / jnp.where(known, lengths, 1)
    step = (g.shape[1] / g.shape[0]) ** 0.5 * dot(jnp.where(known, columns, 0), left.conj().T)
    return step, b - (1 - b1) * dot(image, left.conj().T), None, jnp.where(known, columns, right)
