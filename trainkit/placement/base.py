"""The protocol of a placement: where a step's arrays are, and how its gradients are summed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from trainkit._core import validation
from trainkit._core.processes import alone

PyTree = Any


class Placement(Protocol):
    """Where a step runs: a layout of arrays on devices, independent of the model.

    Attributes:
      name: its name in messages.
      parts: the number of shards along the axis of examples.
    """

    @property
    def name(self) -> str: ...

    @property
    def parts(self) -> int: ...

    @property
    def everywhere(self) -> jax.sharding.Sharding:
        """The sharding of a value that is replicated on every device."""
        ...

    def state_shardings(self, state: PyTree) -> PyTree:
        """The tree of shardings of a state, given as arrays or as shapes."""
        ...

    def batch_sharding(self, axis: int) -> jax.sharding.Sharding:
        """The sharding of a batch leaf with the examples along axis `axis`."""
        ...

    def summed(self, local: Callable, microbatches: int, *, gradient: bool = True) -> Callable:
        """`local(params, model_state, batch, rng, scale) -> Sums`, summed over the devices.

        Without `gradient`, `local` computes no gradient. The result can then be differentiated
        with respect to the parameters, any number of times.
        """
        ...

    def lower(
        self,
        program: Callable,
        state: PyTree,
        batch: PyTree,
        *replicated: jax.ShapeDtypeStruct,
        axis: int,
        donate: bool,
    ) -> jax.stages.Lowered:
        """`program(state, batch, *replicated) -> (state, metrics)`, lowered for these shapes."""
        ...

    def feed(self, batch: PyTree, axis: int) -> PyTree:
        """The batch in the layout that the compiled program expects."""
        ...


def lowered(
    place: Placement,
    program: Callable,
    state: PyTree,
    batch: PyTree,
    *replicated: jax.ShapeDtypeStruct,
    axis: int,
    donate: bool,
) -> jax.stages.Lowered:
    """`program`, of whole arrays over all devices, lowered with the shardings of a placement."""
    shardings, everywhere = place.state_shardings(state), place.everywhere
    jitted = jax.jit(
        program,
        in_shardings=(shardings, place.batch_sharding(axis), *[everywhere] * len(replicated)),
        out_shardings=(shardings, everywhere),
        donate_argnums=(0,) if donate else (),
    )
    return jitted.lower(state, batch, *replicated)


def choose_devices(devices: int | Sequence[jax.Device] | None) -> list[jax.Device]:
    """A list of devices: the first n, evenly from all processes; those given; or (`None`) all.

    Raises:
      TypeError, ValueError: not devices, duplicates, more than there are, or not divisible by the
        number of processes.
    """
    have = jax.devices()
    if devices is None:
        return have
    if isinstance(devices, Sequence | np.ndarray) and not isinstance(devices, str):
        chosen = list(devices)
        if not chosen or not all(isinstance(device, jax.Device) for device in chosen):
            raise TypeError(
                "devices must be a number of devices, or a list of them such as "
                f"jax.devices()[:2], not {devices!r}."
            )
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"devices must be distinct, but one appears twice: {chosen}.")
        return chosen
    validation.integer("devices", devices, hint="a number of devices, a list of them, or None")
    count: Any = devices
    if count > len(have):
        raise ValueError(
            f"devices={devices}, but there are {len(have)} ({have[0].platform}). "
            f"Use at most {len(have)}; on a CPU, simulate more with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}, set before JAX is "
            "imported."
        )
    each, rest = divmod(count, jax.process_count())
    if rest:
        raise ValueError(
            f"devices={devices} must be a multiple of the number of processes, "
            f"{jax.process_count()}; use {max(each, 1) * jax.process_count()}."
        )
    return [d for p in range(jax.process_count()) for d in jax.local_devices(p)[:each]]


def data_mesh(devices: int | Sequence[jax.Device] | None) -> Mesh:
    """A mesh with one axis, `data`; see `choose_devices`."""
    return Mesh(np.array(choose_devices(devices)), ("data",))


def usable(mesh: Mesh) -> Mesh:
    """The mesh with `AxisType.Auto` axes.

    A step specifies only the shardings of its state and batch. With explicit axes, the default of
    `jax.make_mesh`, JAX would require a sharding for every ambiguous operation.

    Raises:
      ValueError: a process has no device in the mesh.
    """
    if not alone():
        missing = set(range(jax.process_count())) - {d.process_index for d in mesh.devices.flat}
        if missing:
            raise ValueError(
                f"the mesh has no device of process {min(missing)}, but all "
                f"{jax.process_count()} processes run the step. Build the mesh from devices of "
                "all processes, such as jax.devices()."
            )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
