"""Gradient descent, and momentum."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit.transforms.rule import rule

ScalarOrSchedule = Any


@rule
def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: float | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformation:
    """Gradient descent: θ ← θ − η g.

    Full-batch, mini-batch and single-example descent are the same rule, with gradients g averaged
    over different sets. With `momentum`, v ← β v + g and
    θ ← θ − η v; with `nesterov` too, θ ← θ − η (β v + g). Optax: `optax.sgd`.

    Raises:
      ValueError: a negative or non-finite rate, a momentum outside [0, 1), or `nesterov` without
        a momentum.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.sgd(0.5)
    >>> tx.update({"w": jnp.array([2.0])}, tx.init({"w": jnp.ones(1)}))[0]["w"].tolist()
    [-1.0]

    Robbins and Monro, A Stochastic Approximation Method, 1951.
    """
    if nesterov and momentum is None:
        raise ValueError(
            "sgd: nesterov=True looks ahead along the momentum, and there is none; give it one: "
            "sgd(learning_rate, momentum=0.9, nesterov=True)."
        )
    return optax.sgd(learning_rate, momentum, nesterov, accumulator_dtype)


@rule
def momentum(
    learning_rate: ScalarOrSchedule,
    beta: float = 0.9,
    convention: Literal["sum", "average"] = "sum",
) -> optax.GradientTransformation:
    """Momentum in either convention.

    `"sum"` (Polyak; PyTorch, Optax, most papers): v ← β v + g, θ ← θ − η v.
    `"average"` (many courses): v ← β v + (1 − β) g, θ ← θ − η v.

    From v = 0, the average with rate η/(1 − β) *is* the sum with rate η. A rate that is used with
    the other convention is wrong by 1/(1 − β), ten times at β = .9; this is the usual reason why a
    published recipe fails. The average has no bias correction (Adam has one), so its first steps
    are short. Optax: `optax.sgd(momentum=β)`; `optax.ema(β, debias=False)` and a scale.

    Raises:
      ValueError: a negative or non-finite rate, β outside [0, 1), or an unknown convention.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.momentum(1.0, beta=0.5, convention="average")
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.ones(1)))[0].tolist()
    [-1.0]

    Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    """
    hint = "that is βv + g, or βv + (1−β)g"
    validation.choice("convention", convention, ("sum", "average"), "momentum", hint)
    if convention == "sum":
        return optax.sgd(learning_rate, momentum=beta)
    return optax.chain(optax.ema(beta, debias=False), optax.scale_by_learning_rate(learning_rate))


@rule
def nesterov(learning_rate: ScalarOrSchedule, beta: float = 0.9) -> optax.GradientTransformation:
    """Nesterov's momentum: v ← β v + g, θ ← θ − η (g + β v).

    This is the usual form in the look-ahead variable, which needs only the gradient at θ.
    (Sutskever et al., 2013, give the original form, with the gradient at θ + β v.) Optax:
    `optax.sgd(momentum=β, nesterov=True)`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.nesterov(1.0, beta=0.5)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.ones(1)))[0].tolist()
    [-3.0]

    Nesterov, A method of solving a convex programming problem with convergence rate O(1/k²), 1983.
    """
    return optax.sgd(learning_rate, momentum=beta, nesterov=True)


@rule
def dynamic_gd(learning_rate: float) -> optax.GradientTransformation:
    """ "Dynamic" gradient descent: θ ← θ − η/(1 + √t) g, with t = 0 at the first step.

    Σ ηₜ diverges and ηₜ → 0, so that noise averages out and any distance can be covered. Texts that
    start at t = 1 have half the first step. Optax: `optax.sgd` with a schedule, here
    `trainkit.schedules.dynamic`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.dynamic_gd(1.0)
    >>> u, state = tx.update(jnp.array([2.0]), tx.init(jnp.ones(1)))
    >>> u.tolist(), tx.update(jnp.array([2.0]), state)[0].tolist()
    ([-2.0], [-1.0])

    Zinkevich, Online convex programming and generalized infinitesimal gradient ascent, 2003.
    """

    def rate(step: jax.Array) -> jax.Array:
        return learning_rate / (1 + jnp.sqrt(step * 1.0))

    return optax.sgd(rate)


scale = rule(optax.scale)
scale_by_learning_rate = rule(optax.scale_by_learning_rate)
