"""A placement on one device; each of several processes computes the whole step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from trainkit.placement.base import choose_devices

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Single:
    """One device, no communication."""

    device: jax.Device
    name: str = "single"
    parts: int = 1

    def state_shardings(self, state: PyTree) -> PyTree:
        return jax.tree.map(lambda _: self.everywhere, state)

    @property
    def everywhere(self) -> jax.sharding.Sharding:
        return SingleDeviceSharding(self.device)

    def batch_sharding(self, axis: int) -> jax.sharding.Sharding:
        return self.everywhere

    def summed(self, local: Callable, microbatches: int, *, gradient: bool = True) -> Callable:
        return local

    def lower(
        self,
        program: Callable,
        state: PyTree,
        batch: PyTree,
        *replicated: jax.ShapeDtypeStruct,
        axis: int,
        donate: bool,
    ) -> jax.stages.Lowered:
        return jax.jit(program, donate_argnums=(0,) if donate else ()).lower(
            state, batch, *replicated
        )

    def feed(self, batch: PyTree, axis: int) -> PyTree:
        return batch


def single(devices: int | Sequence[jax.Device] | None = None) -> Single:
    """A placement on the first device, or on the given one.

    Raises:
      ValueError: more than one device.
    """
    if devices is None or (devices == 1 and not isinstance(devices, bool)):
        return Single(jax.local_devices()[0])
    chosen = choose_devices(devices)
    if len(chosen) != 1:
        raise ValueError(
            f'placement="single" runs on one device, but {len(chosen)} were given; use '
            '"jit", "fsdp", "shard_map" or "pmap" for several.'
        )
    return Single(chosen[0])
