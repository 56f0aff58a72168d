"""Periodic averaging: replicas that train apart, and take the mean at the end of each call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trainkit._core import validation
from trainkit.placement.base import choose_devices
from trainkit.placement.replicated import ShardMap
from trainkit.placement.sharded import Sharded
from trainkit.placement.specs import BySize

PyTree = Any
MOMENTS, INSIDE = ("mean", "first"), ("jit", "fsdp")


@dataclasses.dataclass(frozen=True)
class Within(Sharded):
    """`jit` within a replica: the program's mesh is what `shard_map` leaves of the whole one."""

    @property
    def _own_mesh(self) -> Mesh | None:
        return None


@dataclasses.dataclass(frozen=True)
class Periodic(ShardMap):
    """`shard_map` over replicas that train apart, and take a mean at the end of each call.

    Attributes:
      batch_axes: the mesh axes of the replicas.
      moments: "mean" or "first": of the replicas' optimizer states.
      within: how a replica is laid out over the other axes of the mesh; `None`: on one device.
    """

    name: str = "periodic"
    batch_axes: tuple[str, ...] = ("replica",)
    moments: str = "mean"
    within: Within | None = None

    def __post_init__(self) -> None:
        validation.choice("moments", self.moments, MOMENTS, "periodic")
        super().__post_init__()

    @property
    def replicas(self) -> int:
        """How many train apart."""
        return super().parts

    @property
    def parts(self) -> int:
        return self.replicas * (1 if self.within is None else self.within.parts)

    @property
    def manual(self) -> frozenset[str]:
        return frozenset(self.batch_axes)

    def state_shardings(self, state: PyTree) -> PyTree:
        if self.within is not None:
            return self.within.state_shardings(state)
        return super().state_shardings(state)

    def batch_sharding(self, axis: int) -> jax.sharding.Sharding:
        inner = () if self.within is None else self.within.batch_axes
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, (*self.batch_axes, *inner)))

    def summed(self, local: Callable, microbatches: int, *, gradient: bool = True) -> Callable:
        """The sums of one replica, with a random key of its own; nothing leaves it."""
        own = local
        if self.within is not None:
            own = self.within.summed(local, microbatches, gradient=gradient)

        def apart(params: Any, model_state: Any, batch: Any, rng: Any, scale: Any) -> Any:
            rng = jax.random.fold_in(rng, lax.axis_index(self.batch_axes))
            return own(params, model_state, batch, rng, scale)

        return apart


def periodic(
    devices: int | Sequence[jax.Device] | None = None,
    *,
    replicas: int | None = None,
    inside: str = "jit",
    moments: str = "mean",
) -> Periodic:
    """Local SGD and DiLoCo: one call of the step is a round of `steps_per_call` steps.

    Replica i takes the H steps of a call from the same θ on its own part of each batch, without any
    communication. With wᵢ the weight of its examples (Σ `Loss.weight` over the round), then

      θ ← θ + Σ wᵢ (θᵢ − θ) / Σ wᵢ,

    and `trainkit.transforms.lookahead(tx, H, outer=…)` takes its outer step from that mean. Without
    it, this is local SGD. At the end of a call the state is the same on every device, and has the
    structure that it has in every other placement.

    With H = 1 and plain gradient descent this is synchronous training, exactly up to rounding. An
    adaptive rule sees the gradients of its own replica, so its steps differ already with H = 1.

    Args:
      devices: their number, a list of them, or `None` for all.
      replicas: how many there are, each of as many devices that follow each other; `None`: each
        device is one. Within a replica of several devices every step is synchronous.
      inside: how such a replica is laid out: "jit" or "fsdp".
      moments: what becomes of the optimizer states: "mean", of floating arrays like that of θ, and
        the first replica's counters; or "first", the first replica's, for rules whose states have
        no mean (the bases of SOAP, 8-bit moments).

    Raises:
      ValueError, TypeError: another value of an option; replicas that do not divide the devices.
        From the step: a state without a mean, or the period of a `lookahead` that is not H.

    Running statistics are averaged as under `shard_map`. A transformation sees the loss of its own
    replica: `value`, `value_fn` and `weight` are those of its examples. With `skip_nonfinite` each
    replica skips its own steps: `skipped_steps` counts those of all, the limit holds for each.

    >>> import jax.numpy as jnp, numpy as np, trainkit, trainkit.transforms as tt
    >>> def loss_fn(params, model_state, batch, rng):
    ...     return trainkit.Loss(((batch - params["w"]) ** 2).sum(), len(batch))
    >>> tx = tt.lookahead(tt.adamw(1e-2), 4, outer=tt.nesterov(0.7, 0.9))
    >>> step = trainkit.make_train_step(
    ...     loss_fn, tx, placement=trainkit.placement.periodic(1), steps_per_call=4)
    >>> state = step.place(trainkit.TrainState.create({"w": jnp.zeros(())}, tx))
    >>> state, metrics = step(state, np.ones((4, 8), np.float32))
    >>> int(state.step), metrics["loss"].shape
    (4, (4,))

    McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017;
    Stich, Local SGD Converges Fast and Communicates Little, 2019; Douillard et al., DiLoCo:
    Distributed Low-Communication Training of Language Models, 2023.
    """
    validation.choice("inside", inside, INSIDE, "periodic")
    chosen = choose_devices(devices)
    count = len(chosen) if replicas is None else replicas
    validation.integer("replicas", count, "periodic")
    if len(chosen) % count:
        raise ValueError(
            f"periodic: replicas={count} must divide the {len(chosen)} devices; give "
            f"devices={len(chosen) // count * count or count}, or other replicas."
        )
    if count == len(chosen):
        return Periodic(Mesh(np.array(chosen), ("replica",)), moments=moments)
    mesh = Mesh(np.array(chosen).reshape(count, -1), ("replica", "data"))
    layout = BySize(axes=("data",)) if inside == "fsdp" else None
    return Periodic(mesh, moments=moments, within=Within(mesh, layout=layout))
