"""Shampoo: a root of the second moment of each axis, on both sides of the gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import scalar_like, widest
from trainkit.transforms.clipping import safe_norm
from trainkit.transforms.rule import real_only, rule
from trainkit.transforms.stacks import Stacked, per_tensor

PyTree = Any

GRAFTS = (None, "sgd", "adagrad", "adam")


class ShampooState(NamedTuple):
    """State of `shampoo`.

    Attributes:
      count: int32 scalar, the updates made.
      mu: first moment of the gradients.
      nu: sums (or averages) of their squares; `None` where nothing of the graft needs them.
      gg: for each leaf, one matrix per axis (`None` for long ones): the sum or average of G Gᵀ.
      roots: for each leaf likewise, the inverse root of `gg` as it was at the last refresh.
    """

    count: Any  # an array; tuples have a method of this name
    mu: PyTree
    nu: PyTree
    gg: PyTree
    roots: PyTree


@rule(needs_params=True)
@real_only
@per_tensor
def shampoo(
    learning_rate: Any,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-12,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    sums: bool = False,
    graft: str | None = "adam",
    precondition_frequency: int = 10,
    start_preconditioning_step: int | None = None,
    max_precond_dim: int = 8192,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """Shampoo: θ ← θ − η (‖A‖/‖P‖ P + λ θ), P = (L̂ + ε)^−¼ μ̂ (R̂ + ε)^−¼.

    L ← β₂ L + (1 − β₂) G Gᵀ, R ← β₂ R + (1 − β₂) Gᵀ G, or with `sums` L ← L + G Gᵀ and
    R ← R + Gᵀ G; hats are Adam's bias corrections. A tensor has a matrix for each of its k axes,
    and exponents −1/(2k); axes longer than `max_precond_dim` have none and are not counted. A is
    the step whose length is taken (`graft`): "sgd", μ̂; "adagrad", μ̂/√Σ G²; "adam", μ̂/(√ν̂ + ε);
    with `None` the factor is 1. A leaf without any such axis gets A itself: a scalar is trained by
    Adam. Roots are taken anew every `precondition_frequency` steps, the first time at
    `start_preconditioning_step`, and until then the step is A (`None`: that is after one period,
    and at once without a graft). Eigenvalues that the dtype cannot tell from 0 are raised to what
    it can. The matrices and their roots are at least float32: in bfloat16 the rounding of a matrix
    outweighs its small eigenvalues.

    `b1=0`, `sums=True`, `graft=None` and `precondition_frequency=1` is the rule of 2018, where ε I
    is the matrix to begin with. Embeddings and the output layer are
    matrices too: where one side is longer than `max_precond_dim`, the other has the exponent −1/2.
    Not in Optax.

    Raises:
      ValueError: another `graft`.

    >>> import jax.numpy as jnp
    >>> tx, p = shampoo(1.0, b1=0.0, sums=True, graft=None), jnp.eye(2)
    >>> u = tx.update(jnp.diag(jnp.array([9.0, 0.25])), tx.init(p), p)[0]
    >>> [[round(x, 3) + 0.0 for x in row] for row in u.tolist()]  # −U Vᵀ at first
    [[-1.0, 0.0], [0.0, -1.0]]

    Gupta, Koren and Singer, Shampoo: Preconditioned Stochastic Tensor Optimization, 2018; grafting:
    Anil et al., Scalable Second Order Optimization for Deep Learning, 2020; averages and their
    correction: Shi et al., A Distributed Data-Parallel PyTorch Implementation of the Distributed
    Shampoo Optimizer, 2023.
    """
    validation.choice("graft", graft, GRAFTS, "shampoo")
    every, start = precondition_frequency, start_preconditioning_step
    if start is None:
        start = 1 if graft is None else every
    has_nu = graft in ("adagrad", "adam")

    def axes(x: jax.Array) -> tuple[int, ...]:
        return tuple(a for a in range(x.ndim) if x.shape[a] <= max_precond_dim and x.size)

    def matrices(params: PyTree, make: Any) -> PyTree:
        one = lambda x, a: make(x.shape[a], widest(x)) if a in axes(x) else None
        return jax.tree.map(lambda x: tuple(one(x, a) for a in range(x.ndim)), params)

    def init(params: PyTree) -> ShampooState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return ShampooState(
            count=jnp.zeros((), jnp.int32),
            mu=zeros(),
            nu=zeros() if has_nu else None,
            gg=matrices(params, lambda n, dtype: jnp.zeros((n, n), dtype)),
            roots=matrices(params, lambda n, dtype: jnp.eye(n, dtype=dtype)),
        )

    def update(updates: PyTree, state: ShampooState, params: PyTree = None) -> Any:
        treedef: Any
        leaves, treedef = jax.tree.flatten(updates)
        t, empty = optax.safe_increment(state.count), [None] * len(leaves)
        slots = [empty if s is None else treedef.flatten_up_to(s) for s in state[1:]]
        due = t < start, (t >= start) & ((t - start) % every == 0)
        rates = b1, b2, eps, sums
        rows = [_shampoo_leaf(t, due, rates, graft, *r) for r in zip(leaves, *slots, strict=True)]
        columns = zip(*rows, strict=True) if rows else [()] * 5
        out, mu, nu, gg, roots = (treedef.unflatten(list(column)) for column in columns)
        return out, ShampooState(t, mu, nu if has_nu else None, gg, roots)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _shampoo_leaf(
    t: jax.Array, due: Any, rates: Any, graft: Any, g: Any, mu: Any, nu: Any, gg: Any, roots: Any
) -> Any:
    """The update and new slots of one leaf; `due`: whether it is early, and due for roots."""
    (b1, b2, eps, sums), (early, refresh) = rates, due
    mu = b1 * mu + (1 - b1) * g
    top = mu / scalar_like(1 - b1**t, g)
    own, nu = _grafted(graft, top, nu, g, t, b2, eps)
    share, gone = (None, 1.0) if sums else (b2, 1 - b2**t)
    gg = tuple(None if h is None else _gathered(h, g, a, share) for a, h in enumerate(gg))
    if all(h is None for h in gg):
        return own, mu, nu, gg, roots
    roots = _roots(gg, roots, refresh, eps, gone)
    step = _applied(roots, top)
    step = step if graft is None else _of_length(step, own)
    return jnp.where(early, own, step), mu, nu, gg, roots


def _gathered(h: jax.Array, g: jax.Array, axis: int, share: Any) -> jax.Array:
    """The sum or average of G Gᵀ, G with this axis first."""
    flat = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    new = jnp.matmul(flat, flat.T, precision="highest")
    return h + new if share is None else share * h + (1 - share) * new


def _grafted(graft: Any, top: jax.Array, v: Any, g: jax.Array, t: Any, b2: Any, eps: Any) -> Any:
    """The step of which the length is taken, and its new second moment."""
    if graft == "adagrad":
        v = v + g * g
        return jnp.where(v > 0, top / jnp.sqrt(jnp.where(v > 0, v, 1)), 0), v
    if graft == "adam":
        v = b2 * v + (1 - b2) * g * g
        return top / (jnp.sqrt(v / scalar_like(1 - b2**t, g)) + eps), v
    return top, v


def _roots(grams: Any, held: Any, due: jax.Array, eps: Any, gone: Any) -> Any:
    """The roots of the matrices if `due`, else those that are held."""
    order = sum(h is not None for h in grams)

    def root(h: Any) -> Any:
        if h is None:
            return None
        values, vectors = jnp.linalg.eigh(h / scalar_like(gone, h))
        # What is below this is the rounding of the largest eigenvalue.
        values = jnp.maximum(values + eps, jnp.finfo(h.dtype).eps * values[-1])
        powers = jnp.where(values > 0, values, 1) ** (-1 / (2 * order))
        return jnp.matmul(vectors * powers, vectors.T, precision="highest")

    return jax.lax.cond(due, lambda: tuple(map(root, grams)), lambda: held)


def _applied(roots: Any, x: jax.Array) -> jax.Array:
    for axis, root in enumerate(roots):
        if root is not None:
            turned = jnp.tensordot(x, root, axes=(axis, 0), precision="highest")
            x = jnp.moveaxis(turned, -1, axis)
    return x


def _of_length(x: jax.Array, like: jax.Array) -> jax.Array:
    """x, made as long as another step."""
    size = safe_norm(x)
    return x * (safe_norm(like) / jnp.where(size > 0, size, 1)).astype(x.dtype)
