"""Kernels of new layers that pass their input on."""

from __future__ import annotations

from typing import Any

import numpy as np


def identity_kernel(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The identity of a dense [n, n] or convolution [..., n, n] kernel with odd sides.

    >>> identity_kernel((3, 1, 1), np.float32).ravel().tolist()
    [0.0, 1.0, 0.0]
    """
    out = np.zeros(shape, dtype)
    centre = tuple(size // 2 for size in shape[:-2])
    out[centre] = np.eye(shape[-1], dtype=dtype)
    return out
