"""Numbers on a command line that no experiment can be run with."""

from __future__ import annotations

import math
from typing import Any


def check(config: Any, *positive: str, least_0: tuple[str, ...] = ()) -> None:
    """Refuses options that are not finite and above 0 (or at least 0), and seeds that are none.

    Raises:
      ValueError: the option is named as it is typed.
    """
    for name in (*positive, *least_0):
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            good = number >= 0 if name in least_0 else number > 0
            if not good or not math.isfinite(number):
                words = "at least 0" if name in least_0 else "above 0"
                raise ValueError(f"{_flag(name)} is {number}; it must be {words} and finite.")
    seed = getattr(config, "seed", 0)
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed is {seed}; it must be from 0 to 2**32 - 1.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
