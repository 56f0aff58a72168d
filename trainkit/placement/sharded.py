"""One program over the whole mesh: `jit` with the batch sharded, the state replicated or sharded.

Without micro-batches, the step is written for the global batch, and the partitioner splits it:
batch norm then uses the whole batch, as on a single device. With micro-batches, that would need a
reduction in every iteration. There the loop runs under `shard_map`, each device over its own
examples, and the sums are reduced once after the loop.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trainkit._core import validation
from trainkit.placement.base import data_mesh, lowered, usable
from trainkit.placement.reduce import Sums, same_everywhere
from trainkit.placement.specs import BySize, Rules, axes_of, params_specs, state_specs

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Sharded:
    """`jit` over any mesh.

    Attributes:
      mesh: the mesh.
      batch_axes: names of the mesh axes along which the batch is sharded.
      layout: how the state is laid out: `None` (replicated), `BySize`, or `Rules` of
        (regex, PartitionSpec) pairs.
    """

    mesh: Mesh
    batch_axes: tuple[str, ...] = ("data",)
    layout: BySize | Rules | None = None
    name: str = "jit"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mesh", usable(self.mesh))
        if isinstance(self.batch_axes, str):
            object.__setattr__(self, "batch_axes", (self.batch_axes,))
        for axis in self.batch_axes:
            if axis not in self.mesh.shape:
                raise ValueError(
                    f"batch axis {axis!r} is not one of the mesh's axes "
                    f"{tuple(self.mesh.shape)}; give batch_axes=(...) from these."
                )

    @property
    def parts(self) -> int:
        return math.prod(self.mesh.shape[axis] for axis in self.batch_axes)

    @property
    def everywhere(self) -> jax.sharding.Sharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def state_shardings(self, state: PyTree) -> PyTree:
        specs = state_specs(self.layout, state, self.mesh)
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)

    def batch_sharding(self, axis: int) -> jax.sharding.Sharding:
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, self.batch_axes))

    def summed(self, local: Callable, microbatches: int, *, gradient: bool = True) -> Callable:
        if microbatches > 1:
            return self._by_device(local, gradient)
        return self._global_batch(local) if gradient else local

    def _params_specs(self, params: PyTree) -> PyTree:
        return params_specs(self.layout, params, self.mesh)

    @property
    def _own_mesh(self) -> Mesh | None:
        """The mesh of a step's program; `None`: that of the context."""
        return self.mesh

    def _global_batch(self, local: Callable) -> Callable:
        def placed(tree: PyTree, specs: PyTree) -> PyTree:
            mesh = self._own_mesh
            if mesh is not None:
                specs = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
            return lax.with_sharding_constraint(tree, specs)

        def summed(params: PyTree, *args: Any) -> Sums:
            specs = self._params_specs(params)
            # Gathers each parameter along the axes of the batch. Left to itself, the partitioner
            # also gathers the batch instead, and keeps all its activations on every device.
            sums = local(placed(params, jax.tree.map(self._gathered, specs)), *args)
            # Sets the sharding of each gradient, so that it is reduced to its own shard only.
            return sums._replace(grads=placed(sums.grads, specs))

        return summed

    def _gathered(self, spec: PartitionSpec) -> PartitionSpec:
        """The spec without the axes of the batch."""
        kept = [tuple(a for a in axes_of(entry) if a not in self.batch_axes) for entry in spec]
        return PartitionSpec(*(axes or None for axes in kept))

    def _by_device(self, local: Callable, gradient: bool) -> Callable:
        manual = frozenset(self.batch_axes)

        def reduce_gradient(grad: jax.Array, spec: PartitionSpec) -> jax.Array:
            for dim, axes in enumerate(spec):
                # A leaf that is sharded along the batch axes needs only its shard of the sum.
                if axes_of(axes) == self.batch_axes:
                    return lax.psum_scatter(
                        grad, self.batch_axes, scatter_dimension=dim, tiled=True
                    )
            return lax.psum(grad, self.batch_axes)

        def summed(
            params: PyTree, model_state: PyTree, batch: PyTree, rng: Any, scale: Any
        ) -> Sums:
            specs = self._params_specs(params) if gradient else None

            def device(
                params: PyTree, model_state: PyTree, batch: PyTree, rng: Any, scale: Any
            ) -> Sums:
                rng = jax.random.fold_in(rng, lax.axis_index(self.batch_axes))
                sums = local(params, model_state, batch, rng, scale)
                grads = jax.tree.map(reduce_gradient, sums.grads, specs)
                total, weight, metrics = lax.psum(tuple(sums[1:4]), self.batch_axes)
                state = jax.tree.map(
                    lambda x: same_everywhere(x, self.batch_axes), sums.model_state
                )
                return Sums(grads, total, weight, metrics, state)

            def scattered(spec: PartitionSpec) -> PartitionSpec:
                kept = [a if axes_of(a) == self.batch_axes else None for a in spec]
                return PartitionSpec(*kept)

            everywhere: Any = PartitionSpec()
            mapped = jax.shard_map(
                device,
                mesh=self._own_mesh,
                in_specs=(
                    everywhere,
                    everywhere,
                    PartitionSpec(self.batch_axes),
                    everywhere,
                    everywhere,
                ),
                out_specs=Sums(
                    jax.tree.map(scattered, specs), everywhere, everywhere, everywhere, everywhere
                ),
                axis_names=manual,
                check_vma=False,
            )
            return mapped(params, model_state, batch, rng, scale)

        return summed

    def lower(
        self,
        program: Callable,
        state: PyTree,
        batch: PyTree,
        *replicated: jax.ShapeDtypeStruct,
        axis: int,
        donate: bool,
    ) -> jax.stages.Lowered:
        return lowered(self, program, state, batch, *replicated, axis=axis, donate=donate)

    def feed(self, batch: PyTree, axis: int) -> PyTree:
        return batch


def jit(devices: int | Sequence[jax.Device] | None = None) -> Sharded:
    """A placement with the batch sharded over the devices, and the state replicated."""
    return Sharded(data_mesh(devices))


def fsdp(
    devices: int | Sequence[jax.Device] | None = None,
    *,
    rules: Sequence[tuple[str, PartitionSpec]] | None = None,
    min_size: int = 2**10,
) -> Sharded:
    """A placement with batch and state sharded over the devices.

    Args:
      devices: their number, a list of them, or `None` for all.
      rules: (regex, PartitionSpec) pairs, tried in order on a parameter's path ("dense/kernel");
        each parameter must match one. The mesh has one axis, `data`. `None`: by size.
      min_size: without rules, leaves with fewer elements stay replicated.
    """
    validation.integer("min_size", min_size, least=0, hint="it counts elements of a leaf")
    layout = BySize(min_size) if rules is None else Rules(tuple(rules))
    return Sharded(data_mesh(devices), layout=layout, name="fsdp")
