"""Running statistics of a model, computed anew for other parameters: averages, pruned weights."""

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


def refresh_statistics(
    model: LossFn,
    state: TrainState,
    batches: Iterable[PyTree],
    *,
    precision: Precision | str | None = None,
) -> TrainState:
    """The state with the statistics that its model keeps (BatchNorm's) computed anew.

    Averaged parameters (EMA, SWA) never trained: the statistics beside them are those of the
    trained ones. Refresh before evaluating, with some thousand examples.

    A running statistic follows s ← d s + (1 − d) b, where b is that of the batch. Here it becomes
    the exact mean of b over the batches, each weighed by its number of examples, without a trace of
    the old s. No layer has to be known: what a leaf's d is, and that b does not depend on s, is
    found on the first batch, from what the model makes of three values of its state. A leaf that is
    no such mean (a counter, an iterated vector, the statistics of batch renormalisation) goes
    through the batches one after another, as in training.

    Args:
      model: `(params, model_state, batch, rng) -> Loss` in training mode: what `make_train_step`
        takes.
      state: a state with the parameters in question, such as `trainkit.transforms.swap(state)`.
      batches: of the training data. Each is normalised whole, on the devices where it lies.
      precision: as for `make_train_step`.

    Returns:
      The state with another `model_state`, where it was.

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
    """The leaves of the model state after a batch."""
    new = model(how.to_compute(params), model_state, how.to_compute(batch), rng).model_state
    return jax.tree.leaves(model_state if new is None else new)


@functools.partial(jax.jit, static_argnums=0)
def _add(
    running: tuple[bool, ...], now: list[Any], means: list[Any], new: list[Any], share: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The leaves for the next batch (running statistics stay 0), and the means with this one."""
    # From the difference, so that the mean of equal values is that value.
    add = lambda mean, x: mean + share.astype(mean.dtype) * (x.astype(mean.dtype) - mean)
    return (
        [old if r else x for old, x, r in zip(now, new, running, strict=True)],
        [add(mean, x) if r else mean for mean, x, r in zip(means, new, running, strict=True)],
    )


def _decays(update: Callable[[list[Any]], list[Any]], old: list[Any]) -> list[float | None]:
    """By leaf the d of a running statistic; `None` of what is none."""
    zero = [jnp.zeros_like(x) for x in old]
    # So large that what the batch adds is lost in rounding: f(s) / s is then d, to the last digit.
    large = [jnp.full_like(x, _large(x.dtype)) for x in old]
    # In another direction, which shows what depends on another leaf.
    other = [x + jnp.ones_like(x) * (i + 1) for i, x in enumerate(old)]
    judged = jax.device_get(_judged(old, other, *map(update, (zero, large, other))))
    # The shortest decimal that is this float is the momentum somebody wrote: 1 − 0.999 is then
    # 0.001 to all digits, and not to four of them.
    return [float(str(d)) if is_running else None for is_running, d in judged]


@jax.jit
def _judged(*leaves: list[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
    """By leaf, whether s′ = d s + c with one 0 ≤ d < 1 and the same c for every s; and d."""

    def judge(old: Any, s: Any, at_zero: Any, at_large: Any, at_s: Any) -> Any:
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

    return [judge(*each) for each in zip(*leaves, strict=True)]


def _large(dtype: Any) -> float:
    return 2.0 ** (jnp.finfo(dtype).maxexp // 2) if jnp.issubdtype(dtype, jnp.floating) else 1.0


def _wide(dtype: Any) -> Any:
    return at_least_float32(dtype) if jnp.issubdtype(dtype, jnp.floating) else jnp.float32
