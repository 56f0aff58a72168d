"""What the numbers were measured on: one line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

VERSIONS = ("jax", "flax", "optax", "numpy")


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = (
        [x for x in info.read_text().splitlines() if x.startswith("model name")]
        if (info.exists())
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor() or "unknown CPU"


def cores() -> int:
    """The cores that this process may use: the number of threads of every side."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> tuple[str, str]:
    """The kind of device that JAX chooses ("cpu", "gpu"), and its name; "" for a CPU."""
    import jax

    first = jax.devices()[0]
    return first.platform, "" if first.platform == "cpu" else f"{first.device_kind}, "


def line(peers: dict[str, str] | None = None) -> str:
    """Processor, cores and versions."""
    versions = {name: importlib.metadata.version(name) for name in VERSIONS} | (peers or {})
    words = ", ".join(f"{name} {version}" for name, version in versions.items())
    chip = f"{device()[1]}{processor()}, {cores()} cores"
    return f"{chip}; Python {platform.python_version()}, {words}"


def busy() -> str:
    """A note that others use the processor too, by the load of the last minute; "" if it is quiet.

    The benchmark's own last case is in that load, so as much as it uses is allowed.
    """
    load = os.getloadavg()[0]
    return f"load {load:.1f}" if load > cores() + 0.5 else ""
