"""The evaluation step: weighted sums of a loss and its metrics over batches of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from trainkit._core import validation
from trainkit._core.buffers import as_arrays, owned
from trainkit._core.paths import named_leaves
from trainkit._core.processes import ProcessError, alone, digests, gathered, in_step
from trainkit._core.validation import on_devices, steps
from trainkit.placement import Placement, resolve
from trainkit.placement.shares import from_shares, from_whole, is_global
from trainkit.step.explained import explained
from trainkit.step.gradients import metric_sums
from trainkit.step.in_flight import InFlight
from trainkit.step.precision import Precision
from trainkit.step.state import TrainState

PyTree = Any
Sums = dict[str, tuple[jax.Array, jax.Array]]


@validation.named_options
def make_eval_step(
    loss_fn: Callable[..., Any],
    *,
    placement: str | Mesh | Placement | None = None,
    devices: int | Sequence[jax.Device] | None = None,
    precision: Precision | str | None = None,
) -> EvalStep:
    """A compiled evaluation step: sums over a batch, and means over a data set.

    Args:
      loss_fn: `(params, model_state, batch, rng) -> Loss`, or a result of `from_linen` or
        `from_nnx`, which is used in evaluation mode.
      placement, devices: as for `make_train_step`; default: the devices of each state, with the
        batch sharded over them.
      precision: as for `make_train_step`.

    Returns:
      An `EvalStep`.

    A batch whose size is not a multiple of the number of devices (the last one, say) is computed
    whole on each device. So every example counts exactly once, without padding.

    With several processes, batches that are the same in all of them are one batch; batches that
    differ are the shares of a global batch.

    >>> import jax.numpy as jnp, numpy as np, optax, trainkit
    >>> def loss_fn(params, model_state, batch, rng):
    ...     return trainkit.Loss((batch * params["w"]).sum(), len(batch))
    >>> evaluate = trainkit.make_eval_step(loss_fn)
    >>> state = trainkit.TrainState.create({"w": jnp.ones(())}, optax.sgd(1.0))
    >>> evaluate.over(state, [np.array([1.0, 2.0]), np.array([6.0])])
    {'loss': 3.0}
    """
    steps.loss_function(loss_fn)
    where = None
    if placement is not None or devices is not None:
        where = resolve("single" if placement is None else placement, devices)
    return EvalStep(
        getattr(loss_fn, "evaluation", loss_fn),
        where,
        Precision.of(precision),
        loss_fn,
    )


@dataclasses.dataclass(eq=False)
class EvalStep:
    """A compiled evaluation: `sums = evaluate(state, batch)`, `evaluate.over(state, batches)`.

    If `placement` is `None`, it uses that of each state.
    """

    loss_fn: Callable[..., Any]
    placement: Placement | None
    precision: Precision
    given: Callable[..., Any]

    def __post_init__(self) -> None:
        self._jitted = jax.jit(self.program)
        self._in_flight: dict[jax.sharding.Sharding, InFlight] = {}

    def __call__(self, state: TrainState, batch: PyTree) -> Sums:
        """name -> (Σ total, Σ weight) on one batch, on the device; "loss" is one of the names."""
        steps.state(state)
        placement = self.placement or _placement_of(state)
        batch = _placed(batch, placement)
        try:
            sums = self._jitted(state.params, state.model_state, batch, state.rng)
        except ValueError:
            on_devices.evaluated_there(state, placement)
            raise
        where = placement.everywhere
        if where not in self._in_flight:
            self._in_flight[where] = InFlight(placement)
        self._in_flight[where].add(sums["loss"][0])
        return sums

    def over(self, state: TrainState, batches: Iterable[PyTree]) -> dict[str, float]:
        """name -> Σ total / Σ weight over all batches, summed in float64 on the host.

        Raises:
          ValueError: there is no batch (as of a generator that was used up before), or the total
            weight of the loss is 0. (A metric whose own total weight is 0 is NaN.)
        """
        validation.listed("batches", batches, "[batch]")
        return means([self(state, batch) for batch in in_step(batches, "batches")])

    def place_batch(self, batch: PyTree) -> PyTree:
        """The batch on the devices: sharded, or replicated if its size does not divide."""
        return _placed(batch, self.placement or resolve("single"))

    def program(self, params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array) -> Sums:
        """The sums on one batch; a pure function."""
        cast = self.precision.to_compute
        with explained(self.given, params, model_state, batch):
            loss = self.loss_fn(cast(params), model_state, cast(batch), rng)
        steps.loss(loss, model_state)
        return metric_sums(loss, self.precision)


def _placement_of(state: TrainState) -> Placement:
    """The placement of a state, or the default one."""
    for leaf in jax.tree.leaves(state.params):
        where = leaf.sharding if isinstance(leaf, jax.Array) and leaf.committed else None
        if where is not None and len(where.device_set) > 1:
            devices: list[Any] = sorted(where.device_set, key=lambda device: device.id)
            return resolve(getattr(where, "mesh", None) or Mesh(np.array(devices), ("data",)))
        if where is not None:
            return resolve("single", list(where.device_set))
    return resolve("single")


def _placed(batch: PyTree, placement: Placement) -> PyTree:
    batch = as_arrays(batch)
    steps.numeric(batch)
    size = validation.leading_size(batch, "batch")
    shares = _are_shares(batch, size)
    size = size * jax.process_count() if shares else size
    even = size % placement.parts == 0
    where = placement.batch_sharding(0) if even else placement.everywhere
    return from_shares(batch, where, 0) if shares else from_whole(owned(batch), where)


def _are_shares(batch: PyTree, size: int) -> bool:
    """Whether the processes have different batches."""
    if alone() or any(map(is_global, jax.tree.leaves(batch))):
        return False
    sizes, contents = zip(
        *gathered([size, {name: digests(x) for name, x in named_leaves(batch).items()}]),
        strict=True,
    )
    if len(set(sizes)) > 1:
        raise ProcessError(
            f"the processes have batches of {', '.join(map(str, sizes))} examples; give every "
            "process the same number, or all of them the whole batch."
        )
    return any(content != contents[0] for content in contents)


def means(sums: Sequence[Sums]) -> dict[str, float]:
    """name -> Σ total / Σ weight over some batches, summed in float64 on the host."""
    fetched = jax.device_get(list(sums))
    if not fetched:
        raise ValueError(
            "there is no batch to evaluate on; of a generator, make a new one for each evaluation."
        )
    totals = {
        name: np.sum([np.array(each[name], np.float64) for each in fetched], axis=0)
        for name in fetched[0]
    }
    if totals["loss"][1] == 0:
        raise ValueError("the weights of all batches sum to 0, so there is no mean.")
    return {
        name: float(total / weight) if weight else float("nan")
        for name, (total, weight) in totals.items()
    }
