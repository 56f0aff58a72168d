"""The largest micro-batch of a step that fits into the memory of a device."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from trainkit.cost.forecast import Forecast, forecast


class MicroBatch(NamedTuple):
    """The answer of `largest_micro_batch`.

    Attributes:
      microbatches: into how many parts the batch of each device is divided.
      examples: of one part, on one device.
      forecast: of the step with it.
    """

    microbatches: int
    examples: int
    forecast: Forecast


def largest_micro_batch(
    make: Callable[[int], tuple[Any, Any, Any]], memory: float | None = None
) -> MicroBatch | None:
    """The largest part of the batch that fits, by compiling; nothing is run.

    It tries `microbatches` among the divisors of a device's examples, and halves the choice each
    time, because the activations of a part become smaller with it. The rest (parameters, optimizer
    state, summed gradients) does not: if even one example at a time does not fit, the answer is
    `None`.

    Args:
      make: `microbatches -> (step, state, batch)`, as for `forecast`.
      memory: bytes of a device; `None`: what its data sheet says.

    Raises:
      ValueError: no `memory`, and that of the devices is not known.

    >>> import jax, jax.numpy as jnp, optax, trainkit
    >>> def loss_fn(params, model_state, batch, rng):
    ...     hidden = jnp.tanh(jnp.tanh(batch @ params["w"]) @ params["w"])
    ...     return trainkit.Loss((hidden**2).sum(), len(batch))
    >>> def make(microbatches):
    ...     step = trainkit.make_train_step(loss_fn, optax.sgd(0.1), microbatches=microbatches)
    ...     state = trainkit.TrainState.create({"w": jnp.ones((64, 64))}, optax.sgd(0.1))
    ...     return step, state, jax.ShapeDtypeStruct((4096, 64), jnp.float32)
    >>> found = largest_micro_batch(make, memory=2e6)
    >>> found.examples * found.microbatches, found.forecast.cost.peak_bytes < 2e6
    (4096, True)
    """
    step, state, batch = make(1)
    examples = _local_examples(step, batch)
    whole = _fitting((step, state, batch), memory)
    if whole is not None:
        return MicroBatch(1, examples, whole)
    divisors = [n for n in range(2, examples + 1) if examples % n == 0]
    found: dict[int, Forecast | None] = {}

    def fits(count: int) -> bool:
        found[count] = _fitting(make(count), memory)
        return found[count] is not None

    at = bisect.bisect_left(divisors, True, key=fits)
    if at == len(divisors):
        return None
    count = divisors[at]
    best = found[count]
    assert best is not None  # bisect has asked for the one that it returns
    return MicroBatch(count, examples // count, best)


def _fitting(parts: tuple[Any, Any, Any], memory: float | None) -> Forecast | None:
    """The forecast of a step; `None` if it needs more memory than there is."""
    try:
        found = forecast(*parts, memory=memory)
    except MemoryError:
        return None
    if found.fits is None:
        raise ValueError(
            f"the memory of a {found.kind} is not known; say it with memory=, in bytes."
        )
    return found if found.fits else None


def _local_examples(step: Any, batch: Any) -> int:
    shape = jax.tree.leaves(batch)[0].shape
    return shape[0 if step.steps_per_call == 1 else 1] // step.placement.parts
