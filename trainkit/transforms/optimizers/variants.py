"""Adam but for a line: AMSGrad, Yogi, RAdam and MARS as their papers have them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core.dtypes import scalar_like, squared
from trainkit.transforms.clipping import safe_norm
from trainkit.transforms.rule import rule
from trainkit.transforms.stacks import Stacked, per_tensor

PyTree = Any


@rule
def amsgrad(
    learning_rate: Any,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = False,
    bias_correction_nu: bool = False,
) -> optax.GradientTransformation:
    """AMSGrad: Adam's μ and ν, uncorrected, and θ ← θ − η μ/(√(max over t of ν) + ε).

    The largest ν is what the proof needs, so that the step never grows; μ₀ = ν₀ = 0 makes the first
    steps (1 − β₁)/√(1 − β₂) times as long as later ones, 3.2 at the defaults. With both corrections
    it is `optax.amsgrad` as that is by default, where the largest *corrected* ν divides: the first
    gradient of a run can then hold the step down for good.

    >>> import jax.numpy as jnp
    >>> tx = amsgrad(1.0, b1=0.5, b2=0.75, eps=0.0)
    >>> tx.update(jnp.array([8.0]), tx.init(jnp.ones(1)))[0].tolist()
    [-1.0]

    Reddi, Kale and Kumar, On the Convergence of Adam and Beyond, 2018, algorithm 2.
    """
    return optax.amsgrad(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu
    )


@rule
def yogi(
    learning_rate: Any,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-3,
    initial_accumulator_value: float = 1e-6,
) -> optax.GradientTransformation:
    """Yogi: ν ← ν − (1 − β₂) sign(ν − g²) g², θ ← θ − η μ/(√ν + ε), with Adam's μ.

    ν comes down no faster than it goes up, whatever it was. Nothing is bias-corrected, and μ₀ = 0;
    ν₀ is the initial accumulator, for which the paper takes g² at the start. `optax.yogi` corrects
    both moments, and begins both at 10⁻⁶.

    >>> import jax.numpy as jnp
    >>> tx = yogi(1.0, b1=0.5, b2=0.75, eps=0.0, initial_accumulator_value=0.0)
    >>> tx.update(jnp.array([8.0]), tx.init(jnp.ones(1)))[0].tolist()
    [-1.0]

    Zaheer et al., Adaptive Methods for Nonconvex Optimization, 2018, algorithm 2.
    """

    def init(params: PyTree) -> optax.ScaleByAdamState:
        first = lambda p: jnp.full_like(p, initial_accumulator_value)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(first, params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> Any:
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, updates, state.mu)
        towards = lambda g, v: v - (1 - b2) * jnp.sign(v - squared(g)) * squared(g)
        nu = jax.tree.map(towards, updates, state.nu)
        out = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return out, optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    return optax.chain(
        optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate)
    )


@rule
def radam(
    learning_rate: Any,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    threshold: float = 4.0,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """RAdam: Adam's step times r(ρ) where ρ > 4 and ρ ≥ `threshold`, and η μ̂ before that.

    ρ∞ = 2/(1 − β₂) − 1, ρ = ρ∞ − 2 t β₂ᵗ/(1 − β₂ᵗ), r² = (ρ − 4)(ρ − 2) ρ∞/((ρ∞ − 4)(ρ∞ − 2) ρ).
    The authors' code, PyTorch and `optax.radam` have a threshold of 5, which is one step later.
    Optax takes 1 − β₂ᵗ as a difference: in float32 the first ρ, small differences of numbers near
    ρ∞ = 1999, then have few digits; here it is `expm1`.

    >>> import jax.numpy as jnp
    >>> tx = radam(0.5)
    >>> print(tx.update(jnp.array([8.0]), tx.init(jnp.ones(1)))[0].round(4))  # too early to rectify
    [-4.]

    Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, 2020, algorithm 2.
    """
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov)
    momentum = optax.scale_by_radam(b1, b2, eps, eps_root, jnp.inf, nesterov=nesterov)
    # In Python where β₂ is a number: float32's logarithm of it is off in the fifth digit.
    log = np.log(b2) if isinstance(b2, float) and b2 > 0 else jnp.log(b2)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        stepped, new = adam.update(updates, state)
        early, _ = momentum.update(updates, state)
        t = new.count.astype(jnp.result_type(float))
        top = 2 / (1 - b2) - 1
        rho = top - 2 * t / jnp.expm1(-t * log)
        rectified = (rho > 4) & (rho >= threshold)
        safe = jnp.where(rectified, rho, 5.0)
        r = jnp.sqrt((safe - 4) * (safe - 2) * top / ((top - 4) * (top - 2) * safe))
        chosen = jax.tree.map(
            lambda a, m: jnp.where(rectified, r.astype(a.dtype) * a, m), stepped, early
        )
        return chosen, new

    return optax.chain(
        optax.GradientTransformation(adam.init, update),
        optax.scale_by_learning_rate(learning_rate),
    )


class MarsState(NamedTuple):
    """State of `mars`.

    Attributes:
      count: int32 scalar, the updates made.
      mu, nu: the moments of the corrected gradients.
      last: the last gradient.
    """

    count: Any  # an array; tuples have a method of this name
    mu: PyTree
    nu: PyTree
    last: PyTree


@rule(needs_params=True)
@per_tensor
def mars(
    learning_rate: Any,
    b1: float = 0.95,
    b2: float = 0.99,
    eps: float = 1e-8,
    gamma: float = 0.025,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """MARS-AdamW: AdamW on c = g + γ β₁/(1 − β₁) (g − g₋₁), made no longer than 1 for each leaf.

    g₋₁ is the last gradient: the approximate form, which needs no second gradient on the same
    batch. At the first step there is none, and c = g. μ, ν, their corrections and the decay are
    AdamW's. The authors train leaves of one axis with AdamW: say so with `groups`. Not in Optax.

    >>> import jax.numpy as jnp
    >>> tx, p = mars(1.0, b1=0.5, b2=0.5, eps=0.0, gamma=1.0), jnp.zeros(1)
    >>> _, state = tx.update(jnp.array([0.25]), tx.init(p), p)
    >>> u = tx.update(jnp.array([0.5]), state, p)[0]  # c is .25 and then .75
    >>> print(f"{u[0]:.4f}")
    -0.9272

    Yuan et al., MARS: Unleashing the Power of Variance Reduction for Training Large Models, 2024.
    """

    def init(params: PyTree) -> MarsState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return MarsState(jnp.zeros((), jnp.int32), zeros(), zeros(), zeros())

    def update(updates: PyTree, state: MarsState, params: PyTree = None) -> Any:
        first, count = state.count == 0, optax.safe_increment(state.count)
        share = gamma * b1 / (1 - b1)

        def corrected(g: jax.Array, last: jax.Array) -> jax.Array:
            c = g + scalar_like(share, g) * jnp.where(first, 0, g - last)
            return c / jnp.maximum(safe_norm(c), 1).astype(c.dtype)

        c = jax.tree.map(corrected, updates, state.last)
        mu = jax.tree.map(lambda m, x: b1 * m + (1 - b1) * x, state.mu, c)
        nu = jax.tree.map(lambda v, x: b2 * v + (1 - b2) * squared(x), state.nu, c)

        def step(m: jax.Array, v: jax.Array) -> jax.Array:
            hat = lambda x, b: x / scalar_like(1 - b**count, x)
            return hat(m, b1) / (jnp.sqrt(hat(v, b2)) + eps)

        return jax.tree.map(step, mu, nu), MarsState(count, mu, nu, updates)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
