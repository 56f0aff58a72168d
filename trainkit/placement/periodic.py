"""Periodic averaging: replicas that train apart, and take the mean at the end of each call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from trainkit._core import validation
from trainkit.placement.base import data_mesh
from trainkit.placement.replicated import ShardMap

MOMENTS = ("mean", "first")


@dataclasses.dataclass(frozen=True)
class Periodic(ShardMap):
    """`shard_map` in which a step sums over nothing, and a call ends with a mean over replicas.

    Attributes:
      moments: "mean" or "first": of the replicas' optimizer states.
    """

    name: str = "periodic"
    moments: str = "mean"

    def __post_init__(self) -> None:
        validation.choice("moments", self.moments, MOMENTS, "periodic")
        super().__post_init__()

    def summed(self, local: Callable, microbatches: int, *, gradient: bool = True) -> Callable:
        """`local` with a random key for each replica; nothing is summed."""

        def apart(params: Any, model_state: Any, batch: Any, rng: Any, scale: Any) -> Any:
            rng = jax.random.fold_in(rng, lax.axis_index(self.batch_axes))
            return local(params, model_state, batch, rng, scale)

        return apart


def periodic(
    devices: int | Sequence[jax.Device] | None = None, *, moments: str = "mean"
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
      devices: the replicas: their number, a list of them, or `None` for all.
      moments: what becomes of the optimizer states: "mean", of floating arrays like that of θ, and
        the first replica's counters; or "first", the first replica's, for rules whose states have
        no mean (the bases of SOAP, 8-bit moments).

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
    return Periodic(data_mesh(devices), moments=moments)
