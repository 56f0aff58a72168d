"""What the numbers were measured on: one line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
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


def busy(seconds: float = 0.5) -> str:
    """A note that others use the processor too, while this process sleeps; "" if it is quiet.

    Not the load average: the benchmark's own last case would be in it.
    """
    try:
        before = _used()
        time.sleep(seconds)
        share = (_used() - before) / os.sysconf("SC_CLK_TCK") / seconds
    except OSError:  # no /proc
        return ""
    return f"others used {share:.1f} cores" if share > 0.2 else ""


def _used() -> int:
    """Ticks that all processors have worked since the start, for whom ever."""
    user, nice, system, _idle, _wait, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
    return sum(map(int, (user, nice, system, irq, softirq)))
