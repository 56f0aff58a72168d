"""One program per device, each with a copy of the state: `pmap` and `shard_map`.

The program's gradients are local until `summed` adds them up, so nothing in it may rely on the
automatic sums of `shard_map`: it runs with `check_vma=False`, where a gradient with respect to a
replicated parameter stays local. (With the default, JAX has already summed it, and a second
reduction makes it wrong by the number of devices.)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trainkit._core.processes import alone
from trainkit.placement.base import data_mesh, lowered, usable
from trainkit.placement.reduce import over_devices

PyTree = Any


@dataclasses.dataclass(frozen=True)
class ShardMap:
    """`shard_map` over the mesh; the batch is cut along `batch_axes`."""

    mesh: Mesh
    batch_axes: tuple[str, ...] = ("data",)
    name: str = "shard_map"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mesh", usable(self.mesh))

    @property
    def parts(self) -> int:
        return math.prod(self.mesh.shape[axis] for axis in self.batch_axes)

    @property
    def everywhere(self) -> jax.sharding.Sharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def manual(self) -> frozenset[str]:
        """The mesh axes over which each device has a program of its own."""
        return frozenset(self.mesh.axis_names)

    def state_shardings(self, state: PyTree) -> PyTree:
        return jax.tree.map(lambda _: self.everywhere, state)

    def batch_spec(self, axis: int) -> PartitionSpec:
        return PartitionSpec(*[None] * axis, self.batch_axes)

    def batch_sharding(self, axis: int) -> jax.sharding.Sharding:
        return NamedSharding(self.mesh, self.batch_spec(axis))

    def summed(self, local: Callable, microbatches: int, *, gradient: bool = True) -> Callable:
        return over_devices(local, self.batch_axes)

    def mapped(self, program: Callable, axis: int, replicated: int = 0) -> Callable:
        """The program over all devices, from that of each.

        After state and batch it takes `replicated` arguments that are the same everywhere.
        """
        everywhere = [PartitionSpec()] * replicated
        return jax.shard_map(
            program,
            mesh=self.mesh,
            in_specs=(PartitionSpec(), self.batch_spec(axis), *everywhere),
            out_specs=(PartitionSpec(), PartitionSpec()),
            axis_names=self.manual,
            check_vma=False,
        )

    def lower(
        self,
        program: Callable,
        state: PyTree,
        batch: PyTree,
        *replicated: jax.ShapeDtypeStruct,
        axis: int,
        donate: bool,
    ) -> jax.stages.Lowered:
        mapped = self.mapped(program, axis, len(replicated))
        return lowered(self, mapped, state, batch, *replicated, axis=axis, donate=donate)

    def feed(self, batch: PyTree, axis: int) -> PyTree:
        return batch


@dataclasses.dataclass(frozen=True)
class Pmap(ShardMap):
    """`pmap`: the state unmapped (`None` axes), the batch with one row per device.

    With several processes, the arrays of a pmap can be neither saved nor compiled ahead of time.
    There `shard_map`, on which pmap is built, is used instead; the numbers are the same.
    """

    name: str = "pmap"

    def lower(
        self,
        program: Callable,
        state: PyTree,
        batch: PyTree,
        *replicated: jax.ShapeDtypeStruct,
        axis: int,
        donate: bool,
    ) -> jax.stages.Lowered:
        if not alone():
            return super().lower(program, state, batch, *replicated, axis=axis, donate=donate)
        mapped = jax.pmap(
            program,
            axis_name=self.batch_axes[0],
            in_axes=(None, axis, *[None] * len(replicated)),
            # `None` for state and metrics: taking row 0 of a stacked output is ten thousand times
            # slower than returning the replicated value.
            out_axes=(None, None),
            devices=list(self.mesh.devices.flat),
            donate_argnums=(0,) if donate else (),
        )
        rows = jax.eval_shape(functools.partial(self.feed, axis=axis), batch)
        return mapped.lower(state, rows, *replicated)

    def feed(self, batch: PyTree, axis: int) -> PyTree:
        if not alone():
            return batch

        def rows(x: Any) -> Any:
            each = x.shape[axis] // self.parts
            return x.reshape(*x.shape[:axis], self.parts, each, *x.shape[axis + 1 :])

        return jax.tree.map(rows, batch)


def shard_map(devices: int | Sequence[jax.Device] | None = None) -> ShardMap:
    """`shard_map` over the first `devices` devices, those given, or all."""
    return ShardMap(data_mesh(devices))


def pmap(devices: int | Sequence[jax.Device] | None = None) -> Pmap:
    """`pmap` over the first `devices` devices, those given, or all."""
    return Pmap(data_mesh(devices))
