"""Numbers as text for people: one format for each quantity."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def si(value: float) -> str:
    """A number with three digits and an SI prefix; "never" if it is not finite.

    >>> si(1.49e12), si(float("nan"))
    ('1.49 T', 'never')
    """
    if not math.isfinite(value):
        return "never"
    # Choose the prefix for the rounded value: 999.9 million is 1 G.
    value = float(f"{value:.3g}")
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def flops(value: float) -> str:
    """FLOPs with their unit.

    >>> flops(1.76399e10), flops(12.0)
    ('17.6 GFLOPs', '12 FLOPs')
    """
    text = si(value)
    return f"{text}FLOPs" if text[-1].isalpha() and text != "never" else f"{text} FLOPs"


def duration(seconds: float) -> str:
    """A time.

    >>> duration(3.21), duration(61), duration(3600)
    ('3.2 s', '1 min 01 s', '1 h 00 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def nbytes(value: float) -> str:
    """Bytes with their unit.

    >>> nbytes(1.6e10), nbytes(252)
    ('16 GB', '252 B')
    """
    text = si(value)
    return f"{text}B" if text[-1].isalpha() and text != "never" else f"{text} B"


def mean_spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation; only the mean for a single value.

    >>> mean_spread([1.0, 2.0], 2), mean_spread([1.0], 2)
    ('1.50 ± 0.71', '1.00')
    """
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def amount(name: str, value: float) -> str:
    """The value of a limit as text; `name` is what it counts.

    >>> amount("flops", 1.76399e10), amount("steps", 10_000_000)
    ('17.6 G', '10000000')
    """
    if name == "flops":
        return si(value)
    return str(value) if isinstance(value, int) else f"{value:g}"
