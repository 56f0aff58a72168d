"""What a placement is: where a step's arrays live and how its gradients are summed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from trainkit._core import validation

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
    """The first `devices` devices, those given, or all."""
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
    if devices > len(have):
        raise ValueError(
            f"devices={devices}, but there are {len(have)} ({have[0].platform}). "
            f"Ask for at most {len(have)}; on a CPU more are simulated with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}, set before JAX is "
            "imported."
        )
    return have[:devices]


def data_mesh(devices: int | Sequence[jax.Device] | None) -> Mesh:
    """A mesh with the one axis `data`."""
    return Mesh(np.array(choose_devices(devices)), ("data",))
