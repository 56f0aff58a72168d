"""FLOPs, bytes and memory of a compiled program, from XLA's analysis.

XLA's cost analysis counts the body of a loop only once: a scan over twelve layers counts as one
layer. The missing iterations are added here from the jaxpr, which contains the lengths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from trainkit.cost.flops import count_flops


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one call of a program on one device.

    Attributes:
      flops: floating-point operations; a multiply-add counts as two, a loop body once.
      bytes_accessed: bytes read and written, estimated by XLA.
      argument_bytes, output_bytes: bytes of arguments and results.
      alias_bytes: bytes of results that reuse donated arguments.
      temp_bytes: bytes of temporary buffers.
    """

    flops: float
    bytes_accessed: float
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int

    @property
    def peak_bytes(self) -> int:
        """An upper bound of the memory at one time: arguments, results and temporaries."""
        return self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes


def cost(compiled: jax.stages.Compiled) -> Cost:
    """The cost of a compiled program, from XLA's analysis.

    >>> import jax.numpy as jnp
    >>> f = jax.jit(lambda a, b: a @ b)
    >>> cost(f.lower(jnp.ones((4, 8)), jnp.ones((8, 2))).compile()).flops
    128.0
    """
    analysis = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()

    def size(name: str) -> int:
        return int(getattr(memory, f"{name}_size_in_bytes", 0))

    return Cost(
        flops=float(analysis.get("flops", 0.0)),
        bytes_accessed=float(analysis.get("bytes accessed", 0.0)),
        argument_bytes=size("argument"),
        output_bytes=size("output"),
        alias_bytes=size("alias"),
        temp_bytes=size("temp"),
    )


def program_flops(
    function: Callable[..., Any], arguments: tuple[Any, ...], compiled: jax.stages.Compiled
) -> float:
    """FLOPs of a compiled program on one device, with all iterations of its loops."""
    return cost(compiled).flops + uncounted_flops(function, arguments)


def uncounted_flops(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """The FLOPs that XLA does not count: all but the first iteration of each loop."""
    return count_flops(function, *arguments) - count_flops(function, *arguments, loops_once=True)
