"""What a user writes without trainkit: a jitted Flax and Optax step for every placement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Place = Callable[[Any], Any]
Step = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


class MLP(nn.Module):
    """Two hidden layers."""

    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


def plain(module: nn.Module, tx: optax.GradientTransformation, norms: bool = False) -> Callable:
    """`(params, opt_state), batch -> the same, {loss, accuracy}`, not yet jitted."""

    def step(state, batch, mean=lambda x: x):
        params, opt_state = state

        def loss_fn(params):
            logits = module.apply({"params": params}, batch["x"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return losses.mean(), (logits.argmax(-1) == batch["label"]).mean()

        (loss, accuracy), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        loss, accuracy, grads = mean((loss, accuracy, grads))
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        metrics = {"loss": loss, "accuracy": accuracy}
        if norms:
            for name, tree in (("grad", grads), ("update", updates), ("param", params)):
                metrics[name] = optax.global_norm(tree)
        return (params, opt_state), metrics

    return step


def hand_written(
    module: nn.Module, tx: optax.GradientTransformation, placement: str, shapes: Any, norms: bool
) -> tuple[Place, Step]:
    """`(place, step)` for a placement, over all devices."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    devices = len(mesh.devices)
    everywhere = NamedSharding(mesh, PartitionSpec())
    along = NamedSharding(mesh, PartitionSpec("data"))
    step = plain(module, tx, norms)

    def reduced(state, batch):
        return step(state, batch, lambda x: jax.lax.pmean(x, "data"))

    if placement == "single":
        return lambda state: jax.device_put(state, jax.devices()[0]), jax.jit(step)
    if placement == "pmap":
        mapped = jax.pmap(reduced, "data", in_axes=(None, 0), out_axes=(None, None))
        cut = lambda x: x.reshape(devices, -1, *x.shape[1:])
        return (
            lambda state: jax.device_put(state, everywhere),
            lambda state, batch: mapped(state, jax.tree.map(cut, batch)),
        )
    if placement == "shard_map":
        mapped = jax.shard_map(
            reduced,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec("data")),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        jitted = jax.jit(mapped, in_shardings=(everywhere, along), out_shardings=everywhere)
        return lambda state: jax.device_put(state, everywhere), jitted

    def sharding(x):
        if placement == "fsdp" and x.size >= 2**10:
            axis = int(np.argmax([n if n % devices == 0 else 0 for n in x.shape]))
            return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
        return everywhere

    shardings = jax.tree.map(sharding, shapes)
    jitted = jax.jit(step, in_shardings=(shardings, along), out_shardings=(shardings, everywhere))
    return lambda state: jax.device_put(state, shardings), jitted
