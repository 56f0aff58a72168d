"""What one call of a program needs on each device, before anything is run."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from trainkit._core import validation
from trainkit._core.units import flops as flops_text
from trainkit._core.units import nbytes
from trainkit.cost.collectives import Collective, collectives
from trainkit.cost.devices import Chip, chip_of
from trainkit.cost.flops import count_flops
from trainkit.cost.program import Cost, cost
from trainkit.cost.step import step_flops

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The needs of one call of a program; `str` of it is a table.

    Attributes:
      placement: name of the step's placement; "program" for another program.
      devices: how many there are.
      kind: what they are, as JAX names it.
      chip: their data sheet, `None` where it is not known.
      memory: bytes of one device; `None` where that is not known.
      cost: bytes on one device, as the compiler says.
      flops: of one device, with all iterations of loops.
      collectives: what one device sends to others.
      examples: of the batch, over all devices and steps of the call; 0 for another program.
      steps: of the call.
    """

    placement: str
    devices: int
    kind: str
    chip: Chip | None
    memory: float | None
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
        return None if self.memory is None else self.cost.peak_bytes <= self.memory

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
        c, have = self.cost, ""
        if self.memory is not None:
            have = f" of {nbytes(self.memory)}" + ("" if self.fits else ": TOO LARGE")
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
            of, rate = "", ""
            if self.examples:
                of = f" of {self.examples:,} examples"
                rate = f": at most {self.examples / bounds[slowest]:,.0f} examples/s"
            least = f"{1e3 * bounds[slowest]:,.3g} ms ({slowest})"
            lines.append(f"  a call{of} takes at least {least}{rate}")
        return "\n".join(lines)


def forecast(program: Any, *arguments: PyTree, memory: float | None = None) -> Forecast:
    """Compiles a program ahead of time and says what one call needs; nothing is run.

    The devices may be simulated, or those of a TPU topology that is not there
    (`jax.experimental.topologies`): pass them to `make_train_step(devices=…)`.

    Args:
      program: a step of `make_train_step`, which is taken as `fit` runs it; or another jitted
        function, such as a growth of `trainkit.progressive.programs`.
      arguments: arrays or `jax.ShapeDtypeStruct`s: of the whole state and batch for a step; with
        their shardings for another program.
      memory: bytes of one device; `None`: what its data sheet says.

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
    if memory is not None:
        validation.number("memory", memory, above=0, hint="it counts bytes of a device")
    step = program.donating() if hasattr(program, "placement") else None
    name = step.placement.name if step else "program"
    devices = sorted(_devices(step, arguments), key=lambda d: d.id)
    try:
        compiled = step.compile(*arguments) if step else program.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(
            f"{name} on {len(devices)} × {devices[0].device_kind} does not fit: "
            f"{str(error).splitlines()[0].removeprefix('RESOURCE_EXHAUSTED: ')} Use a smaller "
            "batch, microbatches=, remat=True, or placement='fsdp'."
        ) from error
    flops = step_flops(step, *arguments) if step else count_flops(program, *arguments)
    chip = chip_of(devices[0])
    return Forecast(
        placement=name,
        devices=len(devices),
        kind=devices[0].device_kind,
        chip=chip,
        memory=memory if memory is not None else chip.memory if chip else None,
        cost=cost(compiled),
        flops=flops / len(devices),
        collectives=tuple(collectives(compiled.as_text(), len(devices))),
        examples=_examples(step, arguments[1]) if step else 0,
        steps=step.steps_per_call if step else 1,
    )


def _devices(step: Any, arguments: PyTree) -> set[jax.Device]:
    """The devices of a step, or else those of the arguments' shardings."""
    if step:
        return step.placement.everywhere.device_set
    shardings = [getattr(x, "sharding", None) for x in jax.tree.leaves(arguments)]
    found = next((s.device_set for s in shardings if s is not None), None)
    return found or {jax.devices()[0]}


def _examples(step: Any, batch: PyTree) -> int:
    shape = jax.tree.leaves(batch)[0].shape
    return shape[0] * (shape[1] if step.steps_per_call > 1 else 1)
