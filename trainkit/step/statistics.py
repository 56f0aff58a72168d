"""Recomputing a model's running statistics for other parameters, such as averaged ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation
from trainkit._core.buffers import owned
from trainkit.step.loss import LossFn
from trainkit.step.precision import Precision, at_least_float32
from trainkit.step.state import TrainState

PyTree = Any


@validation.named_options
def refresh_statistics(
    model: LossFn,
    state: TrainState,
    batches: Iterable[PyTree],
    *,
    precision: Precision | str | None = None,
) -> TrainState:
    """The state with its running statistics (BatchNorm) recomputed for its parameters.

    The stored statistics belong to the trained parameters, not to averaged ones (EMA, SWA) or
    pruned ones. Refresh them before an evaluation, with some thousand examples.

    A running statistic follows s ← d s + (1 − d) b, where b is the statistic of the batch. It
    becomes the mean of b over the batches, weighted by their numbers of examples, independent of
    the old s. This works for any layer: d, and that b does not depend on s, is inferred on the
    first batch from the model's output for three values of its state. A leaf that is no such mean
    (a counter, an iterated vector, the statistics of batch renormalisation) is updated by one batch
    after another, as in training.

    Args:
      model: `(params, model_state, batch, rng) -> Loss` in training mode, as for
        `make_train_step`.
      state: a `TrainState` with the new parameters, such as `trainkit.transforms.swap(state)`.
      batches: training batches. Each is normalised as a whole, on the devices where it is.
      precision: as for `make_train_step`.

    Returns:
      The state with a new `model_state` of the same shapes, dtypes and shardings.

    Raises:
      ValueError: there is no batch.

    >>> import flax.linen as nn, numpy as np, optax, trainkit
    >>> net = nn.BatchNorm(momentum=0.99, axis_name=None)
    >>> model = trainkit.from_linen(net, lambda out, batch: (out**2).mean(-1))
    >>> batches = [{"x": np.full((4, 1), x, np.float32)} for x in (1.0, 2.0, 6.0)]
    >>> state = model.state(optax.sgd(0.1), batches[0])
    >>> refresh_statistics(model, state, batches).model_state["batch_stats"]["mean"]
    Array([3.], dtype=float32)

    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018.
    """
    old, treedef = jax.tree.flatten(state.model_state)
    if not old:
        return state
    how = Precision.of(precision)
    now, means = old, [jnp.zeros_like(x, _wide(x.dtype)) for x in old]
    decays: list[float | None] = []
    seen = 0
    for number, batch in enumerate(batches):
        seen += (size := validation.leading_size(batch, "batch"))
        given = state.params, owned(batch), jax.random.fold_in(state.rng, number)

        def update(leaves: list[Any], given: Any = given) -> list[Any]:
            return _updated(model, how, jax.tree.unflatten(treedef, leaves), *given)

        if not decays:
            decays = _decays(update, old)
            now = [x if d is None else jnp.zeros_like(x) for x, d in zip(old, decays, strict=True)]
        running = tuple(d is not None for d in decays)
        now, means = _add(running, now, means, update(now), np.float32(size / seen))
    if not decays:
        raise ValueError("there is no batch to compute statistics on: give training batches.")
    new = [
        last if d is None else (mean * np.asarray(1 / (1 - d), mean.dtype)).astype(last.dtype)
        for last, mean, d in zip(now, means, decays, strict=True)
    ]
    placed = [
        jax.device_put(x, getattr(x0, "sharding", None)) for x, x0 in zip(new, old, strict=True)
    ]
    return state.replace(model_state=jax.tree.unflatten(treedef, placed))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _updated(
    model: LossFn,
    how: Precision,
    model_state: PyTree,
    params: PyTree,
    batch: PyTree,
    rng: jax.Array,
) -> list[jax.Array]:
    """The leaves of the model state after one batch."""
    new = model(how.to_compute(params), model_state, how.to_compute(batch), rng).model_state
    return jax.tree.leaves(model_state if new is None else new)


@functools.partial(jax.jit, static_argnums=0)
def _add(
    running: tuple[bool, ...], now: list[Any], means: list[Any], new: list[Any], share: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The leaves for the next batch (running statistics stay 0), and the updated means."""
    # As a difference, so that the mean of equal values is exact.
    add = lambda mean, x: mean + share.astype(mean.dtype) * (x.astype(mean.dtype) - mean)
    return (
        [old if r else x for old, x, r in zip(now, new, running, strict=True)],
        [add(mean, x) if r else mean for mean, x, r in zip(means, new, running, strict=True)],
    )


def _decays(update: Callable[[list[Any]], list[Any]], old: list[Any]) -> list[float | None]:
    """For each leaf the d of its running statistic; `None` if it is not one."""
    zero = [jnp.zeros_like(x) for x in old]
    # So large that the batch's contribution is lost in rounding: f(s) / s is then exactly d.
    large = [jnp.full_like(x, _large(x.dtype)) for x in old]
    # Values that differ between leaves, which show a dependence on another leaf.
    other = [x + jnp.ones_like(x) * (i + 1) for i, x in enumerate(old)]
    fits = jax.device_get(_affine_fits(old, other, *map(update, (zero, large, other))))
    # The shortest decimal for this float is the momentum in the user's code: 1 − 0.999 is then
    # 0.001 in all digits, not only in four.
    return [float(str(d)) if is_running else None for is_running, d in fits]


@jax.jit
def _affine_fits(*leaves: list[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
    """For each leaf: whether s′ = d s + c with one d in [0, 1) and one c for every s; and d."""

    def fit(old: Any, s: Any, at_zero: Any, at_large: Any, at_s: Any) -> Any:
        if not (jnp.issubdtype(old.dtype, jnp.floating) and old.size):
            return jnp.array(False), jnp.zeros(())
        s, at_zero, at_large, at_s = (
            x.astype(_wide(old.dtype)) for x in (s, at_zero, at_large, at_s)
        )
        slopes = (at_large - at_zero) / jnp.asarray(_large(old.dtype), s.dtype)
        d = slopes.reshape(-1)[0]
        size = jnp.abs(at_zero) + jnp.abs(at_s) + jnp.abs(d * s)
        affine = jnp.abs(at_s - at_zero - d * s) <= 64 * jnp.finfo(old.dtype).eps * size
        return affine.all() & (slopes == d).all() & (d >= 0) & (d < 1), d

    return [fit(*each) for each in zip(*leaves, strict=True)]


def _large(dtype: Any) -> float:
    return 2.0 ** (jnp.finfo(dtype).maxexp // 2) if jnp.issubdtype(dtype, jnp.floating) else 1.0


def _wide(dtype: Any) -> Any:
    return at_least_float32(dtype) if jnp.issubdtype(dtype, jnp.floating) else jnp.float32
