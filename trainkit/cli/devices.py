"""`trainkit devices`: what there is to train on."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax

from trainkit._core.versions import versions
from trainkit.cli.joining import join

HELP = """\
usage: trainkit devices

Shows the devices that JAX sees, with their memory where they say it."""


def main(arguments: Sequence[str]) -> int:
    """Prints a line a device."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(HELP)
        return 0
    if arguments:
        print(f"`trainkit devices` takes no arguments, but got: {' '.join(arguments)}")
        return 2
    join()
    devices = jax.devices()
    print(f"{len(devices)} device{'s' if len(devices) > 1 else ''}:")
    for device in devices:
        print(f"  {device.id:>3}  {device.platform}  {device.device_kind}{_memory(device)}")
    if jax.process_count() > 1:
        print(f"This is process {jax.process_index()} of {jax.process_count()}.")
    if devices[0].platform == "cpu":
        print(
            f"The processor has {os.cpu_count()} cores. Several devices are simulated on it with\n"
            "  XLA_FLAGS=--xla_force_host_platform_device_count=8"
        )
    found = versions()
    print(
        ", ".join(f"{name} {found[name]}" for name in ("python", "jax", "jaxlib", "flax", "optax"))
    )
    return 0


def _memory(device: jax.Device) -> str:
    stats = device.memory_stats() if device.platform != "cpu" else None
    limit = (stats or {}).get("bytes_limit")
    return f"  {limit / 2**30:.1f} GiB" if limit else ""
