"""What a placement is: where a step's arrays live and how its gradients are summed."""

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
    """Where a step runs. It knows arrays, axes and devices, and no model.

    Attributes:
      name: what messages call it.
      parts: into how many pieces the axis of examples is cut.
    """

    @property
    def name(self) -> str: ...

    @property
    def parts(self) -> int: ...

    @property
    def everywhere(self) -> jax.sharding.Sharding:
        """The sharding of a value that is whole on each device."""
        ...

    def state_shardings(self, state: PyTree) -> PyTree:
        """The sharding of each leaf of a state (of arrays, or of their shapes)."""
        ...

    def batch_sharding(self, axis: int) -> jax.sharding.Sharding:
        """The sharding of a batch leaf whose axis number `axis` holds the examples."""
        ...

    def summed(self, local: Callable, microbatches: int, *, gradient: bool = True) -> Callable:
        """`local(params, model_state, batch, rng, scale) -> Sums`, summed over the devices.

        Without `gradient`, `local` leaves it out, and what is returned can be differentiated by
        the parameters, any number of times: the derivatives are those of the sum.
        """
        ...

    def lower(
        self, program: Callable, state: PyTree, batch: PyTree, *, axis: int, donate: bool
    ) -> jax.stages.Lowered:
        """`program(state, batch) -> (state, metrics)` for these shapes, not compiled yet."""
        ...

    def feed(self, batch: PyTree, axis: int) -> PyTree:
        """The batch in the layout in which the compiled program takes it."""
        ...


def choose_devices(devices: int | Sequence[jax.Device] | None) -> list[jax.Device]:
    """The first `devices` devices, as many of each process; those given; or all."""
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
            raise ValueError(f"devices must be different ones, but one is there twice: {chosen}.")
        return chosen
    validation.integer("devices", devices, hint="a number of devices, a list of them, or None")
    count: Any = devices
    if count > len(have):
        raise ValueError(
            f"devices={devices}, but there are {len(have)} ({have[0].platform}). "
            f"Ask for at most {len(have)}; on a CPU more are simulated with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}, set before JAX is "
            "imported."
        )
    each, rest = divmod(count, jax.process_count())
    if rest:
        raise ValueError(
            f"devices={devices}: every one of the {jax.process_count()} processes takes part with "
            f"as many; ask for {max(each, 1) * jax.process_count()}."
        )
    return [d for p in range(jax.process_count()) for d in jax.local_devices(p)[:each]]


def data_mesh(devices: int | Sequence[jax.Device] | None) -> Mesh:
    """A mesh with the one axis `data`."""
    return Mesh(np.array(choose_devices(devices)), ("data",))


def usable(mesh: Mesh) -> Mesh:
    """The mesh with axes over which the compiler decides, and devices of every process in it.

    A step says where its state and batch lie, and no more. With explicit axes, such as
    `jax.make_mesh` gives, JAX asks for a sharding at every operation that leaves it open.
    """
    if not alone():
        missing = set(range(jax.process_count())) - {d.process_index for d in mesh.devices.flat}
        if missing:
            raise ValueError(
                f"the mesh has no device of process {min(missing)}; every one of the "
                f"{jax.process_count()} processes takes part in a step. Make the mesh of devices "
                "of all processes, such as jax.devices()."
            )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
