"""Weights that become 0 and stay 0, the smallest first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit.schedules.decay import polynomial

PyTree = Any


def sparsity_schedule(final: float, *, begin: int = 0, steps: int) -> Callable[[Any], jax.Array]:
    """The pruned fraction at each step: s (1 − (1 − x)³), x = (t − begin)/steps within [0, 1].

    >>> s = sparsity_schedule(0.8, begin=10, steps=10)
    >>> [round(float(s(t)), 3) for t in (0, 10, 15, 20, 99)]
    [0.0, 0.0, 0.7, 0.8, 0.8]

    Zhu and Gupta, To prune, or not to prune, 2018.
    """
    validation.number("final", final, "sparsity_schedule", least=0, below=1)
    left = polynomial(1.0, 0.0, steps, power=3.0, begin=begin)
    return lambda step: final * (1 - left(step))


def magnitude_masks(
    params: PyTree,
    sparsity: Any,
    *,
    mask: Callable[[PyTree], PyTree] | None = None,
    within: PyTree | None = None,
) -> PyTree:
    """Boolean masks that keep the largest weights of each leaf and drop the fraction `sparsity`.

    `sparsity` may be traced, a value of `sparsity_schedule` for example. `mask` says which leaves
    are pruned (by default those of two axes or more); of the others all is kept. Ties are broken by
    position, so that exactly round(sparsity · size) entries are dropped. `within`, earlier masks:
    what they drop stays dropped, and counts.

    >>> import jax.numpy as jnp
    >>> magnitude_masks({"w": jnp.array([[1.0, -3.0], [0.5, 2.0]])}, 0.5)["w"].tolist()
    [[False, True], [False, True]]
    """
    validation.number("sparsity", sparsity, "magnitude_masks", least=0, most=1)
    chosen = mask(params) if mask else jax.tree.map(lambda p: p.ndim >= 2, params)

    def one(p: jax.Array, prune: bool, before: jax.Array | bool) -> jax.Array:
        if not prune:
            return jnp.ones(p.shape, jnp.bool)
        size = jnp.where(before, jnp.abs(p), -1)  # below a kept weight that is 0
        rank = jnp.argsort(jnp.argsort(size.ravel()))
        dropped = jnp.round(jnp.asarray(sparsity).astype(jnp.float32) * p.size)
        return (rank >= dropped.astype(rank.dtype)).reshape(p.shape) & before

    if within is None:
        within = jax.tree.map(lambda p: True, params)
    return jax.tree.map(one, params, chosen, within)


def apply_masks(params: PyTree, masks: PyTree) -> PyTree:
    """The parameters with 0 where the mask is false, also where they are not finite.

    >>> import jax.numpy as jnp
    >>> apply_masks(jnp.array([1.0, 2.0]), jnp.array([True, False])).tolist()
    [1.0, 0.0]
    """
    return jax.tree.map(lambda p, m: jnp.where(m, p, jnp.zeros_like(p)), params, masks)


class PruneState(NamedTuple):
    """State of `prune`.

    Attributes:
      step_count: int32 scalar, the updates made.
      masks: bool, of the parameters' shapes: what is kept.
    """

    step_count: jax.Array
    masks: PyTree


def prune(sparsity: Any, *, every: int = 1, mask: Any = None) -> optax.GradientTransformation:
    """Magnitude pruning as a transformation, last in a chain: pruned weights become and stay 0.

    Every `every` steps the smallest |θ + u| among the kept weights of each leaf are pruned too,
    until the fraction `sparsity` of it (a number or a schedule) is 0. Nothing grows back, also
    where the schedule falls.

    >>> import jax.numpy as jnp
    >>> tx, p = prune(0.5), jnp.array([[1.0, -3.0], [0.5, 2.0]])
    >>> (p + tx.update(jnp.zeros((2, 2)), tx.init(p), p)[0]).tolist()
    [[0.0, -3.0], [0.0, 2.0]]
    """
    validation.integer("every", every, "prune")
    if not callable(sparsity):
        validation.number("sparsity", sparsity, "prune", least=0, most=1)

    def init(params: PyTree) -> PruneState:
        masks = jax.tree.map(lambda p: jnp.ones(p.shape, jnp.bool), params)
        return PruneState(jnp.zeros((), jnp.int32), masks)

    def update(updates: PyTree, state: Any, params: PyTree = None) -> Any:
        validation.need_params("prune", params)
        moved = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)
        share = sparsity(state.step_count) if callable(sparsity) else sparsity
        masks = jax.lax.cond(
            state.step_count % every == 0,
            lambda: magnitude_masks(moved, jnp.asarray(share), mask=mask, within=state.masks),
            lambda: state.masks,
        )
        new = jax.tree.map(
            lambda p, u, m: jnp.where(m, u, -p.astype(u.dtype)), params, updates, masks
        )
        return new, PruneState(optax.safe_increment(state.step_count), masks)

    return optax.GradientTransformation(init, update)
