"""NorMuon: Muon with a second moment for each output."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core.dtypes import scalar_like, squared
from trainkit.transforms.clipping import safe_norm
from trainkit.transforms.optimizers.orthogonal import orthogonal
from trainkit.transforms.rule import rule
from trainkit.transforms.stacks import per_tensor

PyTree = Any


class NorMuonState(NamedTuple):
    """State of `normuon`.

    Attributes:
      count: int32 scalar, the updates made.
      mu: first moment, of the gradients.
      nu: for matrices [in, out] the second moment of the orthogonalised mu, [1, out]; for other
        leaves that of the gradients.
    """

    count: Any  # an array; tuples have a method of this name
    mu: PyTree
    nu: PyTree


@rule(needs_params=True)
@per_tensor
def normuon(
    learning_rate: Any,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
    ns_steps: int = 5,
) -> optax.GradientTransformation:
    """NorMuon: Muon whose columns, one for each output, are divided by their own second moment.

    μ ← β₁ μ + (1 − β₁) g; O = NS(μ), about U Vᵀ of μ = U S Vᵀ (as in `muon`);
    ν ← β₂ ν + (1 − β₂) mean(O²) over the inputs of a kernel [in, out]; Ô = O / (√ν + ε);
    θ ← θ − η (0.2 √(in · out) Ô / ‖Ô‖ + λ θ). An update has the root mean square 0.2 η, as Adam's
    have about, so that the other leaves, which get AdamW, can have the same rate. Embeddings and
    the output layer are matrices too, which Muon's authors train with Adam: say so with `groups`.
    Not in Optax.

    >>> import jax.numpy as jnp
    >>> tx, p = normuon(1.0), jnp.eye(2)
    >>> u = tx.update(jnp.diag(jnp.array([5.0, 0.1])), tx.init(p), p)[0]
    >>> [[round(x, 3) + 0.0 for x in row] for row in u.tolist()]  # columns of one size
    [[-0.283, 0.0], [0.0, -0.283]]

    Li et al., NorMuon: Making Muon more efficient and scalable, 2025.
    """

    def init(params: PyTree) -> NorMuonState:
        second = lambda p: jnp.zeros((1, p.shape[1]) if p.ndim == 2 else p.shape, p.dtype)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return NorMuonState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(second, params))

    def update(updates: PyTree, state: NorMuonState, params: PyTree = None) -> Any:
        count = optax.safe_increment(state.count)

        def first(m: jax.Array, g: jax.Array) -> jax.Array:
            b = b1 if g.ndim == 2 else adam_b1
            return b * m + (1 - b) * g

        def second(v: jax.Array, x: jax.Array) -> jax.Array:
            if x.ndim != 2:
                return adam_b2 * v + (1 - adam_b2) * squared(x)
            total = jnp.sum(squared(x), axis=0, keepdims=True)
            return b2 * v + (1 - b2) * (total / max(x.shape[0], 1))

        def step(x: jax.Array, v: jax.Array) -> jax.Array:
            if x.ndim != 2:
                hat = lambda y, b: y / scalar_like(1 - b**count, y)
                return hat(x, adam_b1) / (jnp.sqrt(hat(v, adam_b2)) + eps)
            x = x / (jnp.sqrt(v) + eps)
            norm = safe_norm(x)
            return x * (0.2 * x.size**0.5 / jnp.where(norm > 0, norm, 1.0)).astype(x.dtype)

        mu = jax.tree.map(first, state.mu, updates)
        turned = jax.tree.map(lambda m: orthogonal(m, ns_steps, eps) if m.ndim == 2 else m, mu)
        seen = jax.tree.map(lambda o, g: o if g.ndim == 2 else g, turned, updates)
        nu = jax.tree.map(second, state.nu, seen)
        return jax.tree.map(step, turned, nu), NorMuonState(count, mu, nu)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
