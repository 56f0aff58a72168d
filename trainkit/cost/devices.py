"""What devices can do at most, from the makers' data sheets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax


class Chip(NamedTuple):
    """One device as JAX counts them.

    Attributes:
      flops: FLOP/s in dense bfloat16 (float16 of a T4 and a V100).
      memory: bytes.
      bandwidth: bytes a second between chip and memory.
      network: bytes a second that it sends to its neighbours over all links (ICI, NVLink); 0 where
        there are none.
    """

    flops: float
    memory: float
    bandwidth: float
    network: float


# By a part of `device_kind`; the first that fits counts.
_CHIPS = {
    "H200": Chip(989e12, 141e9, 4.8e12, 450e9),
    "H100 PCIe": Chip(756e12, 80e9, 2.0e12, 0.0),
    "H100": Chip(989e12, 80e9, 3.35e12, 450e9),
    "A100-SXM4-40GB": Chip(312e12, 40e9, 1.555e12, 300e9),
    "A100": Chip(312e12, 80e9, 2.039e12, 300e9),
    "L40S": Chip(362e12, 48e9, 0.864e12, 0.0),
    "L40": Chip(181e12, 48e9, 0.864e12, 0.0),
    "L4": Chip(121e12, 24e9, 0.3e12, 0.0),
    "A10G": Chip(70e12, 24e9, 0.6e12, 0.0),
    "V100": Chip(125e12, 16e9, 0.9e12, 150e9),
    "T4": Chip(65e12, 16e9, 0.32e12, 0.0),
    "TPU v6": Chip(918e12, 32e9, 1.64e12, 448e9),
    "TPU v5 lite": Chip(197e12, 16e9, 0.819e12, 200e9),
    "TPU v5": Chip(459e12, 95e9, 2.765e12, 600e9),
    "TPU v4": Chip(275e12, 32e9, 1.228e12, 300e9),
    "TPU v3": Chip(61.5e12, 16e9, 0.45e12, 41e9),
    "TPU v2": Chip(23e12, 8e9, 0.35e12, 31e9),
}


def chip_of(device: jax.Device) -> Chip | None:
    """The data sheet of a device, `None` where it is not known.

    >>> chip_of(jax.devices("cpu")[0]) is None
    True
    """
    return next((chip for part, chip in _CHIPS.items() if part in device.device_kind), None)


def peak_flops(devices: Iterable[jax.Device]) -> float | None:
    """What these devices can do at most, in FLOP/s of dense bfloat16; `None` if one is unknown.

    >>> peak_flops(jax.devices("cpu")) is None
    True
    """
    found = [chip_of(device) for device in devices]
    return sum(chip.flops for chip in found if chip) if found and None not in found else None
