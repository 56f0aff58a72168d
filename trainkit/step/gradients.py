"""The summed loss and its gradient over the micro-batches of one device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.dtypes import uphill
from trainkit._core.validation import steps
from trainkit.placement.reduce import Sums
from trainkit.step.explained import explained
from trainkit.step.loss import Loss, LossFn
from trainkit.step.precision import Precision

PyTree = Any


def summed_over_microbatches(
    loss_fn: LossFn,
    microbatches: int,
    precision: Precision,
    remat: bool | Callable[..., Any],
    *,
    gradient: bool = True,
) -> Callable[..., Sums]:
    """`local(params, model_state, batch, rng, scale) -> Sums`, with one loss_fn call a micro-batch.

    Gradients of complex parameters are conjugated (`uphill`), so that θ − η g goes down.
    Without `gradient`, `Sums.grads` is `None`, and the sums themselves can be differentiated.

    The micro-batches update the model state one after another. Micro-batch j of M has the examples
    j, j + M, j + 2M, …, so each device already has its part of every micro-batch.
    """
    given = loss_fn
    if remat:
        policy = None if remat is True else remat
        loss_fn = jax.checkpoint(loss_fn, policy=policy)  # type: ignore[assignment]  # same signature

    def total(
        params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array, scale: Any
    ) -> tuple[jax.Array, Sums]:
        loss = loss_fn(precision.to_compute(params), model_state, precision.to_compute(batch), rng)
        steps.loss(loss, model_state)
        metrics = metric_sums(loss, precision)
        value, weight = metrics.pop("loss")
        kept = model_state if loss.model_state is None else loss.model_state
        scaled = value if scale is None else value * scale.astype(value.dtype)
        return scaled, Sums(None, value, weight, metrics, kept)

    def once(
        params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array, scale: Any
    ) -> Sums:
        with explained(given, params, model_state, batch):
            if not gradient:
                return total(params, model_state, batch, rng, scale)[1]
            grads, sums = jax.grad(total, has_aux=True)(params, model_state, batch, rng, scale)
        return sums._replace(grads=precision.to_accum(uphill(grads)))

    def local(
        params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array, scale: Any
    ) -> Sums:
        if microbatches == 1:
            return once(params, model_state, batch, jax.random.fold_in(rng, 0), scale)
        parts = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(-1, microbatches, *x.shape[1:]), 0, 1), batch
        )
        return _added_up(once, microbatches, params, model_state, parts, rng, scale)

    return local


def _added_up(
    once: Callable[..., Sums],
    microbatches: int,
    params: PyTree,
    model_state: PyTree,
    parts: PyTree,
    rng: jax.Array,
    scale: Any,
) -> Sums:
    """The sums over the micro-batches, in a scan."""

    def iteration(carry: Sums, numbered: tuple[jax.Array, PyTree]) -> tuple[Sums, None]:
        number, part = numbered
        key = jax.random.fold_in(rng, number)
        new = once(params, carry.model_state, part, key, scale)
        added = jax.tree.map(
            jnp.add, carry._replace(model_state=None), new._replace(model_state=None)
        )
        return added._replace(model_state=new.model_state), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(once, params, model_state, first, rng, scale)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    start = zeros._replace(model_state=model_state)
    return jax.lax.scan(iteration, start, (jnp.arange(microbatches), parts))[0]


def metric_sums(loss: Loss, precision: Precision) -> dict[str, tuple[jax.Array, jax.Array]]:
    """name -> (total, weight) for the loss and its metrics, in the accumulation dtype.

    Gradients do not flow through weights and metrics.
    """
    total = jnp.asarray(loss.total)
    dtype = precision.accum_dtype(total.dtype)

    def constant(x: Any) -> Any:
        if not isinstance(x, jax.Array):  # a host constant
            return np.asarray(x, dtype)
        return jax.lax.stop_gradient(x.astype(dtype))

    def weighing(x: Any) -> Any:
        x = constant(x)  # a negative weight is invalid: it would reverse the gradient
        return jnp.where(x < 0, jnp.nan, x) if isinstance(x, jax.Array) else x

    weight = weighing(loss.weight)
    sums = {"loss": (total.astype(dtype), weight)}
    for name, value in (loss.metrics or {}).items():
        steps.metric_name(name, sums)
        own, by = (*value, weight)[:2] if isinstance(value, tuple | list) else (value, weight)
        sums[name] = constant(own), weighing(by)
    return sums
