"""What one call of a train step needs on each device, before anything is run."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from trainkit._core.units import flops as flops_text
from trainkit._core.units import nbytes
from trainkit.cost.collectives import Collective, collectives
from trainkit.cost.devices import Chip, chip_of
from trainkit.cost.program import Cost, cost
from trainkit.cost.step import step_flops

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The needs of one call of a step; `str` of it is a table.

    Attributes:
      placement: name of the step's placement.
      devices: how many there are.
      kind: what they are, as JAX names it.
      chip: their data sheet, `None` where it is not known.
      cost: bytes on one device, as the compiler says.
      flops: of one device, with all iterations of loops.
      collectives: what one device sends to others.
      examples: of the batch, over all devices and steps of the call.
      steps: of the call.
    """

    placement: str
    devices: int
    kind: str
    chip: Chip | None
    cost: Cost
    flops: float
    collectives: tuple[Collective, ...]
    examples: int
    steps: int = 1

    @property
    def sent(self) -> float:
        """Bytes that one device sends."""
        return sum(c.sent for c in self.collectives)

    @property
    def fits(self) -> bool | None:
        """Whether a device's memory is large enough; `None` where that is not known."""
        return None if self.chip is None else self.cost.peak_bytes <= self.chip.memory

    @property
    def least_seconds(self) -> dict[str, float]:
        """Lower bounds of the time of a call (a roofline), in seconds; empty for unknown chips.

        Each resource at its published peak: arithmetic, traffic to memory (of a loop body once,
        as XLA counts it) and to other devices. They may overlap, so the largest is the bound.
        """
        if self.chip is None:
            return {}
        found = {
            "arithmetic": self.flops / self.chip.flops,
            "memory": self.cost.bytes_accessed / self.chip.bandwidth,
        }
        if self.chip.network and self.sent:
            found["network"] = self.sent / self.chip.network
        return found

    def __str__(self) -> str:
        c, chip = self.cost, self.chip
        have = f" of {nbytes(chip.memory)}" + ("" if self.fits else ": TOO LARGE") if chip else ""
        bounds = self.least_seconds

        def at_least(name: str) -> str:
            return f", at least {1e3 * bounds[name]:,.3g} ms" if name in bounds else ""

        lines = [
            f"{self.placement} on {self.devices} × {self.kind}, for each device:",
            f"  memory      {nbytes(c.peak_bytes)}{have}: arguments {nbytes(c.argument_bytes)}, "
            f"temporaries {nbytes(c.temp_bytes)}, "
            f"results {nbytes(c.output_bytes - c.alias_bytes)}",
            f"  arithmetic  {flops_text(self.flops)}{at_least('arithmetic')}",
            f"  traffic     {nbytes(c.bytes_accessed)} to memory{at_least('memory')}",
        ]
        parts = [f"{x.calls} {x.kind} of {nbytes(x.bytes)}" for x in self.collectives]
        each = f", {nbytes(self.sent / self.steps)} a step" if self.steps > 1 else ""
        network = f"{nbytes(self.sent)} sent{each}{at_least('network')}: {', '.join(parts)}"
        lines.append(f"  network     {network if parts else 'nothing is sent'}")
        if bounds:
            slowest = max(bounds, key=lambda name: bounds[name])
            rate = self.examples / bounds[slowest]
            lines.append(
                f"  a call of {self.examples:,} examples takes at least "
                f"{1e3 * bounds[slowest]:,.3g} ms ({slowest}): at most {rate:,.0f} examples/s"
            )
        return "\n".join(lines)


def forecast(step: Any, state: PyTree, batch: PyTree) -> Forecast:
    """Compiles a step ahead of time and says what one call needs; nothing is run.

    The devices may be simulated, or those of a TPU topology that is not there
    (`jax.experimental.topologies`): pass them to `make_train_step(devices=…)`.

    Args:
      step: of `make_train_step`.
      state, batch: arrays or `jax.ShapeDtypeStruct`s of the whole state and batch.

    Raises:
      MemoryError: the compiler knows the memory of these devices, and it is too small.

    >>> import jax.numpy as jnp, optax, trainkit
    >>> def loss_fn(params, model_state, batch, rng):
    ...     return trainkit.Loss(((batch @ params["w"]) ** 2).sum(), len(batch))
    >>> step = trainkit.make_train_step(loss_fn, optax.sgd(0.1), placement="jit", devices=1)
    >>> state = trainkit.TrainState.create({"w": jnp.ones((64, 32))}, optax.sgd(0.1))
    >>> found = forecast(step, state, jax.ShapeDtypeStruct((8, 64), jnp.float32))
    >>> found.devices, found.collectives, found.examples
    (1, (), 8)
    """
    devices = sorted(step.placement.everywhere.device_set, key=lambda d: d.id)
    try:
        compiled = step.compile(state, batch)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(
            f"{step.placement.name} on {len(devices)} × {devices[0].device_kind} does not fit: "
            f"{str(error).splitlines()[0].removeprefix('RESOURCE_EXHAUSTED: ')} Use a smaller "
            "batch, microbatches=, remat=True, or placement='fsdp'."
        ) from error
    first = jax.tree.leaves(batch)[0]
    several = step.steps_per_call > 1
    return Forecast(
        placement=step.placement.name,
        devices=len(devices),
        kind=devices[0].device_kind,
        chip=chip_of(devices[0]),
        cost=cost(compiled),
        flops=step_flops(step, state, batch) / len(devices),
        collectives=tuple(collectives(compiled.as_text(), len(devices))),
        examples=first.shape[0] * (first.shape[1] if several else 1),
        steps=step.steps_per_call,
    )
