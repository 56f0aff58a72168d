"""The program of a step: a pure function of a state and a batch, the same for every placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from trainkit._core.rounds import Round
from trainkit.placement import Periodic, Placement
from trainkit.step.gradients import summed_over_microbatches
from trainkit.step.guard import Guard
from trainkit.step.loss import LossFn
from trainkit.step.precision import Precision
from trainkit.step.rounds import make_round_end
from trainkit.step.state import TrainState
from trainkit.step.update import make_update, mean_loss

PyTree = Any
Metrics = dict[str, jax.Array]
Program = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def step_program(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    place: Placement,
    guard: Guard,
    *,
    schedules: Mapping[str, Callable[[jax.Array], Any]],
    norms: int,
    microbatches: int,
    steps_per_call: int,
    precision: Precision,
    remat: bool | Callable[..., Any],
) -> Program:
    """`(state, batch) -> (state, metrics)`. Several steps per call are a scan over batches.

    Args:
      loss_fn: the loss function.
      tx: the gradient transformation.
      place: the placement.
      guard: the non-finite guard.
      schedules, norms, microbatches, steps_per_call, precision, remat: as for `make_train_step`.
    """

    def summed(gradient: bool) -> Callable[..., Any]:
        local = summed_over_microbatches(loss_fn, microbatches, precision, remat, gradient=gradient)
        return place.summed(local, microbatches, gradient=gradient)

    differentiated, valued = summed(True), summed(False)
    apart = isinstance(place, Periodic)
    update = make_update(
        tx, guard, schedules, norms, Round(steps_per_call, over=False) if apart else None
    )

    def one(state: TrainState, batch: PyTree) -> tuple[TrainState, Any]:
        rng = jax.random.fold_in(state.rng, state.step)
        scale = guard.scale(state.guard)
        sums = differentiated(state.params, state.model_state, batch, rng, scale)

        def value_fn(params: PyTree, *, weight: Any = None, round: Any = None) -> jax.Array:
            # Optax's line searches refuse an extra argument that their value_fn lacks.
            del weight, round
            params = jax.tree.map(lambda x, own: x.astype(own.dtype), params, state.params)
            return mean_loss(valued(params, state.model_state, batch, rng, None))

        after, metrics = update(state, sums, scale, value_fn)
        totals = {"loss": (sums.total, sums.weight), **sums.metrics}
        return after, (metrics, totals) if apart else metrics

    def several(state: TrainState, batches: PyTree) -> tuple[TrainState, Any]:
        return jax.lax.scan(one, state, batches)

    steps = one if steps_per_call == 1 else several
    if not isinstance(place, Periodic):
        return steps
    end = make_round_end(tx, guard, place, steps_per_call)

    def a_round(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        after, (metrics, totals) = steps(state, batch)
        return end(state, after, metrics, totals)

    return a_round
