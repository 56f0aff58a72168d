"""The program of a call: a pure function of a state and a batch, the same for every placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.rounds import outer_step
from trainkit.placement import Periodic, Placement
from trainkit.placement.reduce import psum, same_everywhere
from trainkit.placement.replicas import first, mean, optimizer_states, shares
from trainkit.step.gradients import summed_over_microbatches
from trainkit.step.guard import Guard
from trainkit.step.loss import LossFn
from trainkit.step.precision import Precision
from trainkit.step.state import TrainState
from trainkit.step.update import NORMS, make_update, mean_loss, means, with_extra_args

PyTree = Any
Metrics = dict[str, jax.Array]
Program = Callable[..., tuple[TrainState, Metrics]]


def step_program(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    place: Placement,
    guard: Guard,
    *,
    schedules: Mapping[str, Callable[[jax.Array], Any]],
    norms: int | None,
    microbatches: int,
    steps_per_call: int,
    precision: Precision,
    remat: bool | Callable[..., Any],
) -> Program:
    """`(state, batch, norms=False) -> (state, metrics)`, where `norms` are wanted norms.

    Several steps per call are a scan over batches.

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
    update = make_update(tx, guard, schedules, norms, steps_per_call if apart else None)

    def one(
        state: TrainState, batch: PyTree, norms: jax.Array | bool = False
    ) -> tuple[TrainState, Any]:
        rng = jax.random.fold_in(state.rng, state.step)
        scale = guard.scale(state.guard)
        sums = differentiated(state.params, state.model_state, batch, rng, scale)

        def value_fn(
            params: PyTree, *, weight: Any = None, round: Any = None, pace: Any = None
        ) -> jax.Array:
            # Optax's line searches refuse an extra argument that their value_fn lacks.
            del weight, round, pace
            params = jax.tree.map(lambda x, own: x.astype(own.dtype), params, state.params)
            return mean_loss(valued(params, state.model_state, batch, rng, None))

        after, metrics = update(state, sums, scale, value_fn, norms)
        totals = {"loss": (sums.total, sums.weight), **sums.metrics}
        return after, (metrics, totals) if apart else metrics

    def several(
        state: TrainState, batches: PyTree, norms: jax.Array | bool = False
    ) -> tuple[TrainState, Any]:
        return jax.lax.scan(lambda state, batch: one(state, batch, norms), state, batches)

    steps = one if steps_per_call == 1 else several
    if not isinstance(place, Periodic):
        return steps
    end = _round_end(tx, guard, place)

    def a_round(
        state: TrainState, batch: PyTree, norms: jax.Array | bool = False
    ) -> tuple[TrainState, Metrics]:
        after, (metrics, totals) = steps(state, batch, norms)
        return end(state, after, metrics, totals)

    return a_round


def _round_end(
    tx: optax.GradientTransformation, guard: Guard, place: Periodic
) -> Callable[[TrainState, TrainState, Metrics, PyTree], tuple[TrainState, Metrics]]:
    """`end(before, after, metrics, totals) -> (state, metrics)`, the same on every replica.

    Args of the result:
      before: the state at the start of the round, which all replicas have.
      after: the state of this replica after its inner steps.
      metrics: of its inner steps.
      totals: name -> (Σ total, Σ weight) of the loss and its metrics, at each of its inner steps.
    """
    transform, axes = with_extra_args(tx), place.batch_axes

    def end(
        before: TrainState, after: TrainState, metrics: Metrics, totals: PyTree
    ) -> tuple[TrainState, Metrics]:
        summed = psum(totals, axes)
        share = shares(jnp.sum(totals["loss"][1]), jnp.sum(summed["loss"][1]), axes)
        params = mean(before.params, after.params, share, axes)
        opt_state = optimizer_states(before.opt_state, after.opt_state, share, axes, place.moments)
        params, opt_state = outer_step(transform, params, opt_state)
        state = after.replace(
            params=params,
            model_state=jax.tree.map(lambda x: same_everywhere(x, axes), after.model_state),
            opt_state=opt_state,
            guard=guard.of_replicas(before.guard, after.guard, axes),
        )
        return state, _of_replicas(metrics, summed, guard, before, axes)

    return end


def _of_replicas(
    metrics: Metrics, summed: PyTree, guard: Guard, before: TrainState, axes: tuple[str, ...]
) -> Metrics:
    """The loss and its metrics over the examples of all replicas, and the mean of the norms.

    Of what else there is, such as a learning rate, the first replica's value, which stays exact.
    """
    counters = {
        "skipped_steps": "skipped",
        "skipped_in_a_row": "in_a_row",
        "loss_scale": "loss_scale",
    }
    counted = {own: metrics[name] for name, own in counters.items() if name in metrics}
    joined = guard.of_replicas(before.guard, counted, axes)
    found = {name: joined[counters[name]] for name in metrics if name in counters}
    found |= means(summed)
    found |= {name: jax.lax.pmean(metrics[name], axes) for name in NORMS if name in metrics}
    return {name: found[name] if name in found else first(x, axes) for name, x in metrics.items()}
