"""Kron: preconditioned gradients, by Kronecker factors that are fitted to whiten them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import solve_triangular

from trainkit._core.dtypes import scalar_like
from trainkit.transforms.clipping import safe_norm
from trainkit.transforms.noise import key_data, key_of_update
from trainkit.transforms.rule import real_only, rule
from trainkit.transforms.stacks import Stacked, per_tensor

PyTree = Any


class KronState(NamedTuple):
    """State of `kron`.

    Attributes:
      count: int32 scalar, the number of updates; each folds its number into the key.
      key: uint32[2], the data of a random key, which never changes.
      mu: first moment of the gradients.
      factors: for each leaf one factor Q an axis: upper triangular, or a vector, its diagonal.
    """

    count: Any  # an array; tuples have a method of this name
    key: jax.Array
    mu: PyTree
    factors: PyTree


@rule(needs_params=True)
@real_only
@per_tensor
def kron(
    learning_rate: Any,
    b1: float = 0.9,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    precond_learning_rate: float = 0.1,
    precondition_frequency: int = 1,
    max_precond_dim: int = 8192,
    key: jax.Array | int = 0,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """PSGD with Kronecker factors: θ ← θ − η (P μ̂ + λ θ), P = QᵀQ, Q = Q₂ ⊗ Q₁.

    For a matrix P μ̂ is Q₁ᵀQ₁ μ̂ Q₂ᵀQ₂. Q is fitted to c = E[gᵀPg + vᵀP⁻¹v], v normal, which is
    least where P g has the covariance of v: with A = Q₁ G Q₂ᵀ and B = Q₁⁻ᵀ V Q₂⁻¹,
    Q₁ ← Q₁ − κ triu(A Aᵀ − B Bᵀ) Q₁ / ‖A Aᵀ + B Bᵀ‖, Q₂ likewise with AᵀA and BᵀB, every
    `precondition_frequency` steps. κ is `precond_learning_rate`; ‖·‖ is a lower bound of the
    spectral norm, by a power iteration from the largest column. A tensor has a factor for each
    axis: upper triangular, or diagonal for the axis of a vector and for those longer than
    `max_precond_dim`. A scalar is a vector of one. μ̂ is Adam's. The first Q is a multiple of 1
    such that the first step has the root mean square η; the authors' program has a number for it.
    V is drawn with `key` and the number of the step, alike for all leaves of one shape, so that a
    run can be repeated. Factors are kept at one size, which changes no P. Gradients of the steps
    between two fits are not seen by them, so that what repeats with that period makes another P;
    the authors draw the steps at random. Not in Optax.

    >>> import jax.numpy as jnp
    >>> tx, p = kron(0.5, precond_learning_rate=0.0), jnp.ones(2)  # the first Q
    >>> u = tx.update(jnp.array([3.0, -3.0]), tx.init(p), p)[0]
    >>> [round(x, 3) for x in u.tolist()]
    [-0.5, 0.5]

    Li, Preconditioned Stochastic Gradient Descent, 2015; Pooladzandi and Li, Curvature-Informed SGD
    via General Purpose Lie-Group Preconditioners, 2024.
    """

    def make(p: jax.Array) -> tuple[jax.Array, ...]:
        whole = lambda n: p.ndim > 1 and 1 < n <= max_precond_dim
        one = lambda n: jnp.eye(n, dtype=p.dtype) if whole(n) else jnp.ones(n, p.dtype)
        return tuple(map(one, p.shape or (1,)))

    def init(params: PyTree) -> KronState:
        return KronState(
            count=jnp.zeros((), jnp.int32),
            key=key_data(key),
            mu=jax.tree.map(jnp.zeros_like, params),
            factors=jax.tree.map(make, params),
        )

    def update(updates: PyTree, state: KronState, params: PyTree = None) -> Any:
        treedef: Any
        leaves, treedef = jax.tree.flatten(updates)
        t, drawn = optax.safe_increment(state.count), key_of_update(state)
        due = state.count % precondition_frequency == 0
        slots = (treedef.flatten_up_to(slot) for slot in state[2:])
        when = state.count == 0, due, drawn
        rows = [
            _kron_leaf(when, precond_learning_rate, g, b1 * m + (1 - b1) * g, 1 - b1**t, qs)
            for g, m, qs in zip(leaves, *slots, strict=True)
        ]
        columns = zip(*rows, strict=True) if rows else [()] * 3
        out, mu, factors = (treedef.unflatten(list(column)) for column in columns)
        return out, KronState(t, state.key, mu, factors)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _kron_leaf(when: Any, rate: Any, g: Any, mu: Any, gone: jax.Array, factors: Any) -> Any:
    """The update of one leaf, its momentum and its new factors."""
    first, due, key = when
    if not g.size:
        return mu, mu, factors
    x = g.reshape(g.shape or (1,))
    factors = _started(factors, x, first)
    factors = jax.lax.cond(due, lambda: _fitted(factors, x, key, rate), lambda: factors)
    top = (mu / scalar_like(gone, mu)).reshape(x.shape)
    return _preconditioned(factors, top).reshape(g.shape), mu, factors


def _started(factors: Any, x: jax.Array, first: jax.Array) -> Any:
    """The factors; at the first step such that P x has the root mean square 1."""
    rms = safe_norm(x).astype(x.dtype) / x.size**0.5
    scale = jnp.where(first & (rms > 0), jnp.where(rms > 0, rms, 1), 1) ** (-1 / (2 * x.ndim))
    return tuple(q * scale for q in factors)


def _fitted(factors: Any, x: jax.Array, key: jax.Array, rate: Any) -> Any:
    """The factors after one step down c, all of one size."""
    for n in x.shape:
        key = jax.random.fold_in(key, n)
    # In float32 for every dtype, so that runs in two dtypes draw alike.
    v = jax.random.normal(key, x.shape, jnp.float32).astype(x.dtype)
    a, b = _along(factors, x, _times), _along(factors, v, _solved)
    new = [_stepped(q, _first(a, i), _first(b, i), rate) for i, q in enumerate(factors)]
    sizes = [jnp.max(jnp.abs(q)) for q in new]
    mean = jnp.exp(sum(map(jnp.log, sizes)) / len(sizes))
    return tuple(q * (mean / size) for q, size in zip(new, sizes, strict=True))


def _stepped(q: jax.Array, a: jax.Array, b: jax.Array, rate: Any) -> jax.Array:
    rate = scalar_like(rate, q)
    if q.ndim == 1:
        ours, theirs = jnp.sum(a * a, axis=1), jnp.sum(b * b, axis=1)
        return q - rate / jnp.max(ours + theirs) * (ours - theirs) * q
    ours, theirs = _dot(a, a.T), _dot(b, b.T)
    return q - rate / _norm(ours + theirs) * _dot(jnp.triu(ours - theirs), q)


def _norm(s: jax.Array) -> jax.Array:
    """A lower bound of the spectral norm of a symmetric matrix."""
    column = _dot(s, jnp.take(s, jnp.argmax(jnp.sum(s * s, axis=0)), axis=1))
    return jnp.linalg.norm(_dot(s, column / jnp.linalg.norm(column)))


def _preconditioned(factors: Any, x: jax.Array) -> jax.Array:
    """P x = QᵀQ x."""
    return _along(factors, _along(factors, x, _times), _transposed)


def _along(factors: Any, x: jax.Array, apply: Any) -> jax.Array:
    """x with each axis multiplied by what `apply` makes of its factor."""
    for axis, q in enumerate(factors):
        flat = _first(x, axis)
        moved = jnp.moveaxis(x, axis, 0).shape
        x = jnp.moveaxis(apply(q, flat).reshape(moved), 0, axis)
    return x


def _first(x: jax.Array, axis: int) -> jax.Array:
    """As a matrix whose rows are the entries of this axis."""
    return jnp.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision="highest")


def _times(q: jax.Array, x: jax.Array) -> jax.Array:
    return q[:, None] * x if q.ndim == 1 else _dot(q, x)


def _transposed(q: jax.Array, x: jax.Array) -> jax.Array:
    return q[:, None] * x if q.ndim == 1 else _dot(q.T, x)


def _solved(q: jax.Array, x: jax.Array) -> jax.Array:
    """Q⁻ᵀ x."""
    return x / q[:, None] if q.ndim == 1 else solve_triangular(q, x, trans=1, lower=False)
