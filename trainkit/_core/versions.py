"""What a run was made with, for checkpoints and reports."""

from __future__ import annotations

import functools
import importlib.metadata
import platform

import jax

VERSION = "0.1.0"
PACKAGES = ("trainkit", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Name -> version of Python and of the packages that decide a run's numbers.

    >>> sorted(versions())[:3]
    ['flax', 'jax', 'jaxlib']
    """
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@functools.cache  # read from files, some milliseconds each
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # trainkit itself, run from a source tree without being installed.
        return VERSION if name == "trainkit" else "not installed"


def devices() -> str:
    """The devices in a few words, such as `8 × cpu`.

    >>> devices().endswith("cpu")
    True
    """
    kinds = [device.device_kind for device in jax.devices()]
    return ", ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))
