"""Schedule-free learning: averaging instead of a decaying rate."""

from __future__ import annotations

from typing import Any

import jax
import optax
import optax.contrib

from trainkit._core.dtypes import cast_like, scalar_like, upcast
from trainkit.transforms.masked_trees import assembled, kept
from trainkit.transforms.rule import rule, states_of

PyTree = Any


@rule(needs_params=True)
def schedule_free(
    learning_rate: Any,
    b1: float = 0.9,
    weight_lr_power: float = 2.0,
    base: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Schedule-free learning around a rule without momentum (by default gradient descent).

    The parameters are y = (1 − β₁) z + β₁ x, at which gradients are computed; z ← z + base(g); x ←
    (1 − c) x + c z, c = wₜ/Σ w, wₜ = (max η)^power. Evaluate at x, by `schedule_free_params(state,
    params)`. `base` must have the same `learning_rate` and no momentum. Optax:
    `optax.contrib.schedule_free`; here z and the sums are float32 or wider.

    >>> import jax.numpy as jnp
    >>> tx, p = schedule_free(0.5), jnp.array([4.0])
    >>> u, state = tx.update(jnp.array([2.0]), tx.init(p), p)
    >>> [round(x, 4) for x in schedule_free_params(state, p + u).tolist()]
    [3.0]

    Defazio et al., The Road Less Scheduled, 2024.
    """
    base = optax.sgd(learning_rate) if base is None else base
    return _wide(optax.contrib.schedule_free(base, learning_rate, b1, weight_lr_power))


@rule(needs_params=True)
def schedule_free_adamw(
    learning_rate: Any = 0.0025,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_lr_power: float = 2.0,
) -> optax.GradientTransformation:
    """Schedule-free AdamW: `schedule_free` around bias-corrected RMSProp with decoupled decay.

    For a warm-up pass a schedule, such as `schedules.warmup(schedules.constant(η), n)`.
    Optax: `optax.contrib.schedule_free_adamw`.

    >>> import jax.numpy as jnp
    >>> tx, p = schedule_free_adamw(0.5), jnp.array([4.0])
    >>> u, state = tx.update(jnp.array([2.0]), tx.init(p), p)
    >>> [round(x, 4) for x in schedule_free_params(state, p + u).tolist()]
    [3.5]

    Defazio et al., The Road Less Scheduled, 2024.
    """
    base = optax.chain(
        optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    return _wide(optax.contrib.schedule_free(base, learning_rate, b1, weight_lr_power))


def _wide(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    # Optax stores z and the sum of weights in the narrowest dtype of the parameters. In bfloat16
    # the sum stops growing after 256 steps.
    return optax.GradientTransformationExtraArgs(
        lambda params: inner.init(upcast(params)), inner.update
    )


def schedule_free_params(state: PyTree, params: PyTree) -> PyTree:
    """The averaged parameters x at which a schedule-free run is evaluated.

    Args:
      state: an optimizer state, or a `TrainState`, with a schedule-free rule anywhere in it, also
        in groups. Parameters of other rules are returned unchanged.
      params: the trained parameters y.

    Raises:
      ValueError: the state has no schedule-free rule, or several for one parameter.
    """

    def averages(held: Any) -> PyTree:
        def average(y: jax.Array, z: jax.Array) -> jax.Array:
            b1 = scalar_like(held.b1, y)
            return (y - (1 - b1) * z.astype(y.dtype)) / b1

        return jax.tree.map(average, kept(upcast(params), held.z), held.z)

    parts = [averages(held) for held in states_of(optax.contrib.ScheduleFreeState, state)]
    return cast_like(
        assembled(parts, params, "schedule-free rules", "schedule_free(learning_rate)"), params
    )
