"""Versions and devices of a run, for checkpoints and reports."""

from __future__ import annotations

import functools
import importlib.metadata
import platform

import jax

VERSION = "0.1.0"
PACKAGES = ("trainkit", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Name -> version, of Python and of the packages that affect a run's numbers.

    >>> sorted(versions())[:3]
    ['flax', 'jax', 'jaxlib']
    """
    return dict(_versions())


@functools.cache  # the look-up takes a third of the time of a small checkpoint
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # trainkit itself, run from a source tree without being installed.
            found[name] = VERSION if name == "trainkit" else "not installed"
    return found


def devices() -> str:
    """A short description of the devices, such as `8 × cpu`.

    >>> devices().endswith("cpu")
    True
    """
    kinds = [device.device_kind for device in jax.devices()]
    return ", ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))
