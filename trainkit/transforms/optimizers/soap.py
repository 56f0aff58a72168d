"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core.dtypes import scalar_like
from trainkit.transforms.rule import real_only, rule
from trainkit.transforms.stacks import Stacked, per_tensor

PyTree = Any


class SoapState(NamedTuple):
    """State of `soap`.

    Attributes:
      count: int32 scalar, the number of updates (the first only collects statistics).
      mu: first moment, in the basis of the parameters.
      nu: second moment, in the rotated basis.
      gg: for each leaf, one matrix per rotated axis (`None` for others): the EMA of G Gᵀ.
      basis: for each leaf likewise, the orthonormal eigenbasis of `gg`.
    """

    count: Any  # an array; tuples have a method of this name
    mu: PyTree
    nu: PyTree
    gg: PyTree
    basis: PyTree


@rule(needs_params=True)
@real_only
@per_tensor
def soap(
    learning_rate: Any,
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    mask: Any = None,
    *,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    precondition_1d: bool = False,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

    L ← β L + (1 − β) G Gᵀ, R ← β R + (1 − β) Gᵀ G, with eigenbases Q_L, Q_R; G' = Q_Lᵀ G Q_R, M' =
    Q_Lᵀ M Q_R with M ← β₁ M + (1 − β₁) G, ν ← β₂ ν + (1 − β₂) G'²; θ ← θ − η (Q_L [M̂'/(√ν̂ + ε)]
    Q_Rᵀ + λ θ). The first bases come from `eigh`. Then, every `precondition_frequency` steps, they
    are updated by one power iteration and QR, as in the authors' code, with columns in the order of
    their eigenvalues (ν is reordered with them). The first update only collects statistics and is
    0. Tensors have one basis for each axis. Axes longer than `max_precond_dim` have none, so a
    vector gets plain Adam. `shampoo_beta` is β (`None`: β₂). While L or R is singular, rounding
    determines the basis of its null space, so runs on different machines or placements diverge
    sooner than with other rules. Not in Optax.

    >>> import jax, jax.numpy as jnp
    >>> tx, p = soap(0.1), jax.random.normal(jax.random.key(0), (3, 2))
    >>> u, state = tx.update(p, tx.init(p), p)
    >>> float(jnp.abs(u).max()), bool(jnp.any(tx.update(p, state, p)[0] != 0))
    (0.0, True)

    Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, 2024.
    """
    beta = b2 if shampoo_beta is None else shampoo_beta

    def axes(x: jax.Array) -> tuple[int, ...]:
        if x.ndim < 2 and not precondition_1d:
            return ()
        return tuple(a for a in range(x.ndim) if 1 < x.shape[a] <= max_precond_dim and x.size)

    def per_axis(x: jax.Array, make: Any) -> tuple[Any, ...]:
        return tuple(make(x.shape[a]) if a in axes(x) else None for a in range(x.ndim))

    def init(params: PyTree) -> SoapState:
        return SoapState(
            count=jnp.zeros((), jnp.int32),
            mu=jax.tree.map(jnp.zeros_like, params),
            nu=jax.tree.map(jnp.zeros_like, params),
            gg=jax.tree.map(lambda p: per_axis(p, lambda n: jnp.zeros((n, n), p.dtype)), params),
            basis=jax.tree.map(lambda p: per_axis(p, lambda n: jnp.eye(n, dtype=p.dtype)), params),
        )

    def update(updates: PyTree, state: SoapState, params: PyTree = None) -> Any:
        treedef: Any
        leaves, treedef = jax.tree.flatten(updates)
        slots = [treedef.flatten_up_to(slot) for slot in state[1:]]
        due = (state.count % precondition_frequency == 0) & (state.count > 0)
        rates = b1, b2, beta, eps
        rows = [
            _soap_leaf(state.count, due, rates, *row) for row in zip(leaves, *slots, strict=True)
        ]
        columns = zip(*rows, strict=True) if rows else [()] * 5
        out, mu, nu, gg, basis = (treedef.unflatten(list(column)) for column in columns)
        return out, SoapState(optax.safe_increment(state.count), mu, nu, gg, basis)

    parts = [optax.GradientTransformation(init, update)]
    if not (isinstance(weight_decay, float | int) and weight_decay == 0):
        # The first update is 0, including the decay.
        parts.append(_decay_after_first(weight_decay, mask))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))


def _soap_leaf(
    count: jax.Array, due: jax.Array, rates: Any, g: Any, mu: Any, nu: Any, gg: Any, basis: Any
) -> Any:
    """The update and new slots of one leaf; `due`: whether its bases are updated."""
    b1, b2, beta, eps = rates
    first = count == 0
    new_mu = jnp.where(first, mu, b1 * mu + (1 - b1) * g)
    new_nu = jnp.where(first, nu, b2 * nu + (1 - b2) * jnp.square(_rotate(g, basis)))
    steps = jnp.maximum(count, 1)
    mu_hat = _rotate(new_mu, basis) / scalar_like(1 - b1**steps, g)
    nu_hat = new_nu / scalar_like(1 - b2**steps, g)
    step = _rotate(mu_hat / (jnp.sqrt(nu_hat) + eps), basis, back=True)
    out = jnp.where(first, jnp.zeros_like(step), step)
    new_gg = tuple(
        None if m is None else beta * m + (1 - beta) * _outer(g, a) for a, m in enumerate(gg)
    )
    new_basis, new_nu = _refresh(new_gg, basis, new_nu, first, due)
    return out, new_mu, new_nu, new_gg, new_basis


def _decay_after_first(weight_decay: Any, mask: Any) -> optax.GradientTransformation:
    def update(updates: PyTree, state: Any, params: PyTree = None) -> Any:
        on = state.count > 0
        new = jax.tree.map(
            lambda u, p: u + jnp.where(on, scalar_like(weight_decay, p) * p, 0),
            updates,
            params,
        )
        return new, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    tx = optax.GradientTransformation(
        lambda params: optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32)), update
    )
    return tx if mask is None else optax.masked(tx, mask)


def _outer(g: jax.Array, axis: int) -> jax.Array:
    flat = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return jnp.matmul(flat, flat.T, precision="highest")


def _rotate(x: jax.Array, basis: Any, back: bool = False) -> jax.Array:
    for axis, q in enumerate(basis):
        if q is not None:
            turned = jnp.tensordot(x, q, axes=(axis, 1 if back else 0), precision="highest")
            x = jnp.moveaxis(turned, -1, axis)
    return x


def _refresh(gg: Any, basis: Any, nu: jax.Array, first: jax.Array, due: jax.Array) -> Any:
    """New bases if `due`, with the second moment in their order."""

    def decompose(operand: Any) -> Any:
        gg, _, nu = operand
        # The largest first.
        return tuple(None if m is None else jnp.flip(jnp.linalg.eigh(m)[1], axis=1) for m in gg), nu

    def iterate(operand: Any) -> Any:
        gg, basis, nu = operand
        new: list[Any] = []
        for axis, (m, q) in enumerate(zip(gg, basis, strict=True)):
            if m is None:
                new.append(None)
                continue
            product = jnp.matmul(m, q, precision="highest")
            order = jnp.argsort(-jnp.sum(q * product, axis=0))
            nu = jnp.take(nu, order, axis=axis)
            new.append(jnp.linalg.qr(jnp.take(product, order, axis=1))[0])
        return tuple(new), nu

    keep = lambda operand: (operand[1], operand[2])
    which = jnp.where(first, 1, jnp.where(due, 2, 0))
    if all(m is None for m in gg):
        return basis, nu
    return jax.lax.switch(which, [keep, decompose, iterate], (gg, basis, nu))
