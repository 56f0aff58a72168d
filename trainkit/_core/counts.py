"""Whole numbers of products and quotients that were rounded."""

from __future__ import annotations

import math

# Twice float32's rounding: a fraction may come in float32.
_ROUNDING = 1.2e-7


def rounded_up(x: float) -> int:
    """⌈x⌉, of what x was before its rounding.

    >>> 0.07 * 100, math.ceil(0.07 * 100), rounded_up(0.07 * 100)
    (7.000000000000001, 8, 7)
    """
    return whole if _is(whole := round(x), x) else math.ceil(x)


def rounded_down(x: float) -> int:
    """⌊x⌋, of what x was before its rounding.

    >>> 0.29 * 100, math.floor(0.29 * 100), rounded_down(0.29 * 100)
    (28.999999999999996, 28, 29)
    """
    return whole if _is(whole := round(x), x) else math.floor(x)


def _is(whole: int, x: float) -> bool:
    return abs(x - whole) <= _ROUNDING * abs(whole)
