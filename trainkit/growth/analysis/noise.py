"""Noise on split weights (see `maps.noise`): which copies need equal noise, so that it cancels.

The noise N of a split weight sums to 0 over the copies of a unit, and the copies of other operands
are equal, so that N cancels in the sum over the copies. A product of two split weights,

    Σ_{d, h} (A + N)[d, h] · (B + M)[d, h],    Σ_d N[d, h] = 0,    Σ_h M[d, h] = 0,

has the term N · M too. It cancels if M is equal for all copies along d.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from trainkit.growth.analysis.scales.propagation import ScalePropagation
from trainkit.growth.axes.linear import Expr


def tie_noise(
    scales: ScalePropagation,
    chosen: Sequence[dict[tuple[int, int, int], int]],
    bit: Callable[[Expr], int],
) -> None:
    """Notes the leaves along which parameters need equal noise, in `scales.ordered`.

    Args:
      chosen: for each parameter: (dimension, label, uid of a leaf) -> 1 if it is split, else 0.
      bit: the value of a share exponent.
    """
    for one, other in scales.products:
        if len(both := one.keys() & other.keys()) < 2:
            continue
        first, second = (
            [at for at in sorted(both) if any(e and bit(e) for e in places[at])]
            for places in (one, other)
        )
        for (i, along), (j, summed) in itertools.product(first, second):
            if (i, along) == (j, summed):
                continue
            for parameter, splits in enumerate(chosen):
                if any(uid == summed and split for (_, _, uid), split in splits.items()):
                    scales.ordered.setdefault(parameter, set()).add(along)
