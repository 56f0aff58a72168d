"""From summed gradients to the new state: divide, check, transform, report."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.validation import steps
from trainkit.placement.reduce import Sums
from trainkit.step.explained import noted
from trainkit.step.guard import Guard
from trainkit.step.norms import global_norm
from trainkit.step.precision import at_least_float32
from trainkit.step.rates import RATE, factors, in_force, reported, with_pace
from trainkit.step.state import TrainState

PyTree = Any
ValueFn = Callable[[PyTree], jax.Array]
# Names of the metrics that a step reports itself.
NORMS = ("grad_norm", "update_norm", "param_norm")
OWN = ("loss", "loss_scale", *NORMS, "skipped_steps")


def make_update(
    tx: optax.GradientTransformation,
    guard: Guard,
    schedules: Mapping[str, Callable[[jax.Array], Any]],
    norms: int | None,
    round: int | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`update(state, sums, scale, value_fn, wanted) -> (state, metrics)`, for sums of all devices.

    Norms are computed at every step whose number, from 1, is a multiple of `norms`; 0: never;
    `None`: where `wanted`, a boolean scalar, is true. With a `round`, sums are those of one
    replica, and transformations take no outer step.
    """
    transform = functools.partial(with_extra_args(tx), round=round, pace=None)
    scales = factors(tx)
    for name in schedules:
        steps.metric_name(name, OWN, by="schedules")

    def update(
        state: TrainState, sums: Sums, scale: Any, value_fn: ValueFn, wanted: jax.Array | bool
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, factor = mean_loss(sums), _factor(sums, scale)
        mean = jax.tree.map(lambda g: g * factor.astype(g.dtype), sums.grads)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), mean, state.params)
        # Optax's Adam and schedules mix int32 counts with floats. Under strict promotion they
        # raise, which a user who wants strict promotion in the model cannot avoid.
        with jax.numpy_dtype_promotion("standard"):
            with noted("tx.update", lambda: f"gradients {{{steps.described(grads)}}}."):
                result = transform(
                    grads,
                    state.opt_state,
                    state.params,
                    value=loss,
                    grad=grads,
                    value_fn=value_fn,
                    weight=sums.weight,
                )
            updates, opt_state = steps.updates(result, state.opt_state, state.params)
            values = {name: _scheduled(name, fn, state.step) for name, fn in schedules.items()}
            values = reported(opt_state) | values
            named = {name.split("/")[0] for name in (*values, *sums.metrics)}
            rates = {} if RATE in named else in_force(scales, state.opt_state)
            values = with_pace(values | rates)
        new = state.replace(
            step=state.step + 1,
            params=jax.tree.map(_add, state.params, updates),
            model_state=sums.model_state,
            opt_state=opt_state,
        )
        if guard.skip:
            finite = jnp.isfinite(loss) & _all_finite(mean)
            new = _guarded(guard, finite, new, state)
        metrics = {"loss": loss} | values
        if scale is not None:
            metrics["loss_scale"] = scale
        due = wanted if norms is None else norms > 0 and (norms == 1 or new.step % norms == 0)
        metrics |= _norms(due, sums.grads, factor, state.params, new.params)
        metrics["skipped_steps"] = new.guard.get("skipped", jnp.zeros((), jnp.int32))
        if guard.limit is not None:
            metrics["skipped_in_a_row"] = new.guard["in_a_row"]
        for name in sums.metrics:
            steps.metric_name(name, metrics)
        return new, metrics | means(sums.metrics)

    return update


def _scheduled(name: str, schedule: Callable[[jax.Array], Any], step: jax.Array) -> jax.Array:
    """The value of one of `schedules`."""
    with noted(f"schedules[{name!r}]", lambda: "the number of the step, an int32 scalar."):
        value = schedule(step)
    validation.scheduled(f"schedules[{name!r}]", value)
    return jnp.asarray(value)


def _factor(sums: Sums, scale: Any) -> jax.Array:
    """1 / Σ weight, without the loss scale: g is Σ ∂total times this.

    Divided only once: XLA repeats a division by a scalar in every loop that uses g.
    """
    weight = _nonzero(sums.weight)
    return 1 / (weight if scale is None else weight * scale.astype(weight.dtype))


def _guarded(guard: Guard, finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """The new state if the step was finite; else the old one, with updated step and counters."""
    return new.replace(
        params=_choose(finite, new.params, old.params),
        model_state=_choose(finite, new.model_state, old.model_state),
        opt_state=_choose(finite, new.opt_state, old.opt_state),
        guard=guard.advance(old.guard, finite),
    )


def with_extra_args(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """`tx.update` as a function that ignores extra arguments it does not accept."""
    update = optax.with_extra_args_support(tx).update
    parameters = inspect.signature(update).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return update
    return lambda *args, **extra: update(
        *args, **{name: value for name, value in extra.items() if name in parameters}
    )


def means(sums: dict[str, tuple[jax.Array, jax.Array]]) -> dict[str, jax.Array]:
    """Σ total / Σ weight of each; 0 where nothing has a weight."""
    return {name: total / _nonzero(weight) for name, (total, weight) in sums.items()}


def mean_loss(sums: Sums) -> jax.Array:
    """L = Σ total / Σ weight; 0 for a fully masked batch."""
    return sums.total / _nonzero(sums.weight)


def _nonzero(weight: jax.Array) -> jax.Array:
    return jnp.where(weight == 0, jnp.ones_like(weight), weight)


def _norms(
    wanted: jax.Array | bool, summed: PyTree, factor: jax.Array, old: PyTree, new: PyTree
) -> dict[str, jax.Array]:
    """The norms of mean gradient, update as it was applied, and new parameters.

    NaN if not wanted, and no metric where that is known when the program is traced. Computed from
    arrays that the step holds in memory in any case: mean gradients and updates would have to be
    written down for the branch, at every step.
    """
    if wanted is False:
        return {}

    def compute(*trees: PyTree) -> tuple[jax.Array, ...]:
        summed, old, new = trees
        grad = global_norm(summed)
        return (
            grad * abs(factor).astype(grad.dtype),
            global_norm(jax.tree.map(_moved, new, old)),
            global_norm(new),
        )

    def leave_out(*trees: PyTree) -> tuple[jax.Array, ...]:
        shapes = jax.eval_shape(compute, *trees)
        return tuple(jnp.full(x.shape, jnp.nan, x.dtype) for x in shapes)

    trees = summed, old, new
    values = compute(*trees) if wanted is True else jax.lax.cond(wanted, compute, leave_out, *trees)
    return dict(zip(NORMS, values, strict=True))


def _moved(new: jax.Array, old: jax.Array) -> jax.Array:
    wide = at_least_float32(new.dtype)
    return new.astype(wide) - old.astype(wide)


def _add(param: jax.Array, update: jax.Array) -> jax.Array:
    wide = at_least_float32(param.dtype)
    return (param.astype(wide) + update.astype(wide)).astype(param.dtype)


def _all_finite(tree: PyTree) -> jax.Array:
    """Whether every element is finite.

    First tests the sum of squares, which the norm needs anyway. Only if that is not finite (a NaN,
    an infinity, or squares that overflow), each element is tested.
    """

    def each(tree: PyTree) -> jax.Array:
        return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()

    return jax.lax.cond(jnp.isfinite(global_norm(tree)), lambda _: jnp.array(True), each, tree)


def _choose(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
