"""Schedule-free learning: averaging in place of a decaying rate."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from trainkit._core import validation
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

    y = (1 − β₁) z + β₁ x is where gradients are taken, and what the parameters are;
    z ← z + base(g), the base's own step; x ← (1 − c) x + c z, c = wₜ/Σ w, wₜ = (max η)^power.
    Evaluate at x: `schedule_free_params(state, params)`. `base` must step by the same
    `learning_rate` and have no momentum of its own. Optax: `optax.contrib.schedule_free`, whose
    weights have the rate of the next step; here z and the sums are float32 at least.

    Raises:
      ValueError: a β₁ of 0, where x cannot be told from y and z.

    >>> import jax.numpy as jnp
    >>> tx, p = schedule_free(0.5), jnp.array([4.0])
    >>> u, state = tx.update(jnp.array([2.0]), tx.init(p), p)
    >>> [round(x, 4) for x in schedule_free_params(state, p + u).tolist()]
    [3.0]

    Defazio et al., The Road Less Scheduled, 2024.
    """
    base = optax.sgd(learning_rate) if base is None else base
    return _averaging(base, learning_rate, b1, weight_lr_power, "schedule_free")


@rule(needs_params=True)
def schedule_free_adamw(
    learning_rate: Any = 0.0025,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: Any = 0.0,
    weight_lr_power: float = 2.0,
) -> optax.GradientTransformation:
    """Schedule-free AdamW: `schedule_free` around z ← z − γ (g/(√ν + ε) + λ y).

    ν ← β₂ ν + (1 − β₂) g², and γ = η √(1 − β₂ᵗ) is Adam's bias correction. It weighs the average
    too, so that the first steps count less in it; Optax (`optax.contrib.schedule_free_adamw`) and
    its authors' later code correct ν and weigh by η alone. For a warm-up give a schedule, such as
    `schedules.warmup(schedules.constant(η), n)`.

    Raises:
      ValueError: a β₁ of 0, as in `schedule_free`.

    >>> import jax.numpy as jnp
    >>> tx, p = schedule_free_adamw(0.5), jnp.array([4.0])
    >>> u, state = tx.update(jnp.array([2.0]), tx.init(p), p)
    >>> [round(x, 4) for x in schedule_free_params(state, p + u).tolist()]
    [3.5]

    Defazio et al., The Road Less Scheduled, 2024, algorithm 1.
    """

    def gamma(count: Any) -> Any:
        t = jnp.asarray(count).astype(jnp.result_type(float)) + 1
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        return rate * jnp.sqrt(1 - b2**t)

    base = optax.chain(
        optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(gamma),
    )
    return _averaging(base, gamma, b1, weight_lr_power, "schedule_free_adamw")


def _averaging(
    base: optax.GradientTransformation, rate: Any, b1: Any, power: Any, of: str
) -> optax.GradientTransformation:
    hint = "at 0, y is z, and x = (y − (1 − β₁) z)/β₁ is lost; average_params(…, 'swa') averages z"
    validation.number("b1", b1, of, above=0, below=1, hint=hint)
    # Optax counts the weights from 1, the steps from 0.
    own = (lambda count: rate(count - 1)) if callable(rate) else rate
    inner = optax.contrib.schedule_free(base, own, b1, power)
    # Optax keeps z and the sum of weights in the lowest dtype of the parameters: in bfloat16 the
    # sum stops growing after 256 steps.
    return optax.GradientTransformationExtraArgs(
        lambda params: inner.init(upcast(params)), inner.update
    )


def schedule_free_params(state: PyTree, params: PyTree) -> PyTree:
    """The averaged parameters x at which a schedule-free run is evaluated.

    Args:
      state: an optimizer state, or a `TrainState`, with a schedule-free rule anywhere in it, in one
        or more groups too: parameters of other rules stay as they are.
      params: the parameters y that are being trained.

    Raises:
      ValueError: no schedule-free rule in the state, or more than one for a parameter.
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
