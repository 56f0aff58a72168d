"""Parameter groups that start to train during a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit.transforms.state.groups import groups
from trainkit.transforms.state.named import injected

PyTree = Any


def unfreeze_at(
    tx: optax.GradientTransformation, step: int
) -> optax.GradientTransformationExtraArgs:
    """Updates of 0 before the given step, and `tx` from that step on, with its initial state.

    The state exists from the start, so a step does not compile again. With `lax.cond`, `tx` costs
    nothing before its step.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = unfreeze_at(tt.sgd(1.0), 1)
    >>> u, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    >>> u.tolist(), tx.update(jnp.ones(1), state)[0].tolist()
    ([0.0], [-1.0])
    """
    validation.integer("step", step, "unfreeze_at", least=0)
    inner = injected(tx)

    def init(params: PyTree) -> optax.ConditionallyTransformState:
        return optax.ConditionallyTransformState(
            inner_state=inner.init(params), step=jnp.zeros((), jnp.int32)
        )

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> Any:
        def frozen() -> Any:
            return jax.tree.map(jnp.zeros_like, updates), state.inner_state

        def free() -> Any:
            return inner.update(updates, state.inner_state, params, **extra)

        new, inner_state = jax.lax.cond(state.step >= step, free, frozen)
        return new, optax.ConditionallyTransformState(
            inner_state=inner_state, step=optax.safe_increment(state.step)
        )

    return optax.GradientTransformationExtraArgs(init, update)


def gradual_unfreezing(
    make: Any, stages: Sequence[tuple[str, int | None]]
) -> optax.GradientTransformationExtraArgs:
    """Unfreezes one group after another: each (expression, step) trains from its step on.

    Args:
      make: the rule of every group, such as `adamw(1e-3)`.
      stages: pairs (regular expression, first step of training); `None` for never.

    Raises:
      ValueError: as in `groups`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.gradual_unfreezing(tt.sgd(1.0), [("head", 0), ("body", 100), ("embed", None)])
    >>> params = {n: jnp.ones(()) for n in ("embed", "body", "head")}
    >>> {k: float(v) for k, v in tx.update(params, tx.init(params), params)[0].items()}
    {'body': 0.0, 'embed': 0.0, 'head': -1.0}

    Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, 2018.
    """
    validation.transformation(make, "gradual_unfreezing: the rule")
    return groups(
        [
            (pattern, None if step is None else unfreeze_at(make, step) if step else make)
            for pattern, step in stages
        ]
    )
