"""Penalties on the weights: coupled and decoupled decay, L1 and L2."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.dtypes import scalar_like
from trainkit.transforms.rule import rule

PyTree = Any


def _masked(function: Any, mask: Any) -> optax.GradientTransformation:
    tx = optax.stateless(lambda updates, params: jax.tree.map(function, updates, params))
    return tx if mask is None else optax.masked(tx, mask)


@rule(needs_params=True)
def l2(strength: float, mask: Any = None) -> optax.GradientTransformation:
    """Coupled decay: the gradient of ½ λ ‖θ‖² added to the loss, g ← g + λ θ.

    It comes first in a chain. Before plain gradient descent it is weight decay; before an adaptive
    rule it is not (see `adamw`). A penalty λ ‖θ‖² is this one with 2 λ.
    Optax: `optax.add_decayed_weights`, first in a chain.

    >>> import jax.numpy as jnp
    >>> tx, p = l2(0.5), jnp.array([4.0])
    >>> tx.update(jnp.ones(1), tx.init(p), p)[0].tolist()
    [3.0]
    """
    return _masked(lambda g, p: g + scalar_like(strength, p) * p, mask)


@rule(needs_params=True)
def l1(strength: float, mask: Any = None) -> optax.GradientTransformation:
    """The gradient of λ ‖θ‖₁ added to the loss: g ← g + λ sign(θ), 0 at 0.

    Steps of finite length jump across 0 and back, so weights become small, but not 0. For exact
    zeros, use `soft_threshold` at the end of the chain. Not in Optax.

    >>> import jax.numpy as jnp
    >>> tx, p = l1(0.5), jnp.array([4.0, 0.0])
    >>> tx.update(jnp.ones(2), tx.init(p), p)[0].tolist()
    [1.5, 1.0]

    Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996.
    """
    return _masked(lambda g, p: g + scalar_like(strength, p) * jnp.sign(p), mask)


@rule(needs_params=True)
def soft_threshold(
    learning_rate: float, strength: float, mask: Any = None
) -> optax.GradientTransformation:
    """The proximal step of λ ‖θ‖₁, last in a chain: θ ← S(θ + u), S(x) = sign(x) max(|x| − ηλ, 0).

    Weights become exactly 0 and stay there. Not in Optax as a transformation.

    >>> import jax.numpy as jnp
    >>> tx, p = soft_threshold(1.0, 0.5), jnp.array([4.0, 0.25])
    >>> (p + tx.update(jnp.zeros(2), tx.init(p), p)[0]).tolist()
    [3.5, 0.0]

    Beck and Teboulle, A Fast Iterative Shrinkage-Thresholding Algorithm, 2009.
    """

    def one(u: jax.Array, p: jax.Array) -> jax.Array:
        moved = p + u
        bound = scalar_like(learning_rate, p) * scalar_like(strength, p)
        return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - bound, 0) - p

    return _masked(one, mask)


@rule(needs_params=True)
def decoupled_weight_decay(
    learning_rate: Any, weight_decay: float, mask: Any = None
) -> optax.GradientTransformation:
    """Decoupled decay, last in a chain, after the rate: u ← u − η λ θ, for any rule.

    In Optax, `optax.add_decayed_weights` between the rule and its rate does the same. Here it has
    its own rate or schedule (for the paper's λ, which is not multiplied by η, use η = 1).

    >>> import jax.numpy as jnp
    >>> tx, p = decoupled_weight_decay(0.5, 0.5), jnp.array([4.0])
    >>> tx.update(jnp.zeros(1), tx.init(p), p)[0].tolist()
    [-1.0]

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """

    def init(params: PyTree) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> Any:
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        new = jax.tree.map(
            lambda u, p: u - scalar_like(rate, p) * (scalar_like(weight_decay, p) * p),
            updates,
            params,
        )
        return new, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    tx = optax.GradientTransformation(init, update)
    return tx if mask is None else optax.masked(tx, mask)


add_decayed_weights = rule(optax.add_decayed_weights, needs_params=True)
