"""The program of a step: a pure function of a state and a batch, the same for every placement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from trainkit.placement import Placement
from trainkit.step.gradients import summed_over_microbatches
from trainkit.step.guard import Guard
from trainkit.step.loss import LossFn
from trainkit.step.precision import Precision
from trainkit.step.state import TrainState
from trainkit.step.update import mean_loss

PyTree = Any
Metrics = dict[str, jax.Array]
Program = Callable[..., tuple[TrainState, Metrics]]


def step_program(
    loss_fn: LossFn,
    update: Callable[..., tuple[TrainState, Metrics]],
    place: Placement,
    guard: Guard,
    *,
    microbatches: int,
    steps_per_call: int,
    precision: Precision,
    remat: bool | Callable[..., Any],
) -> Program:
    """`(state, batch, norms=False) -> (state, metrics)`, where `norms` are wanted norms.

    Several steps per call are a scan over batches.

    Args:
      loss_fn: the loss function.
      update: the result of `update.make_update`.
      place: the placement.
      guard: the non-finite guard.
      microbatches, steps_per_call, precision, remat: as for `make_train_step`.
    """

    def summed(gradient: bool) -> Callable[..., Any]:
        local = summed_over_microbatches(loss_fn, microbatches, precision, remat, gradient=gradient)
        return place.summed(local, microbatches, gradient=gradient)

    differentiated, valued = summed(True), summed(False)

    def one(
        state: TrainState, batch: PyTree, norms: jax.Array | bool = False
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        scale = guard.scale(state.guard)
        sums = differentiated(state.params, state.model_state, batch, rng, scale)

        def value_fn(params: PyTree, *, weight: Any = None) -> jax.Array:
            del weight  # Optax's line searches refuse an extra argument that their value_fn lacks
            params = jax.tree.map(lambda x, own: x.astype(own.dtype), params, state.params)
            return mean_loss(valued(params, state.model_state, batch, rng, None))

        return update(state, sums, scale, value_fn, norms)

    def several(
        state: TrainState, batches: PyTree, norms: jax.Array | bool = False
    ) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda state, batch: one(state, batch, norms), state, batches)

    return one if steps_per_call == 1 else several
