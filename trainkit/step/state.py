"""`TrainState`: what a run carries from one step to the next."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Step, parameters, model state, optimizer state and random key: one immutable pytree.

    Attributes:
      step: int32 scalar, the number of steps so far, including skipped non-finite ones.
      params: pytree of floating arrays, the trained parameters.
      model_state: pytree of the model's other state (batch statistics); `{}` if there is none.
      opt_state: the state of the gradient transformation, with the structure of `tx.init(params)`.
      rng: a typed random key (`jax.random.key`). It never changes: each step folds in its number,
        so that a run resumed at step n draws the same numbers as an uninterrupted run.
      guard: counters of the step itself (skipped steps, the loss scale), set by `step.place`; `{}`
        if there are none.

    >>> import jax, jax.numpy as jnp, optax
    >>> params = {"w": jnp.ones((2, 3))}
    >>> state = TrainState.create(params, optax.adam(1e-3), rng=jax.random.key(0))
    >>> int(state.step), state.params["w"].shape
    (0, (2, 3))
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    rng: jax.Array
    guard: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

    @classmethod
    def create(
        cls,
        params: PyTree,
        tx: optax.GradientTransformation,
        *,
        model_state: PyTree = None,
        rng: jax.Array | int = 0,
    ) -> TrainState:
        """The state before the first step; `rng` is a key or an integer seed.

        Raises:
          TypeError: a parameter is not a floating array; its path is named.
        """
        validation.params_are_floating(params)
        validation.transformation(tx)
        # Not every transform of Optax starts under strict promotion; see trainkit/step/update.py.
        with jax.numpy_dtype_promotion("standard"):
            opt_state = tx.init(params)
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state={} if model_state is None else model_state,
            opt_state=opt_state,
            rng=validation.key_of("rng", rng),
        )

    def replace(self, **changes: Any) -> TrainState:
        """A copy with some fields changed."""
        fields = [field.name for field in dataclasses.fields(self)]
        validation.keywords(changes, fields, "TrainState.replace")
        return dataclasses.replace(self, **changes)
