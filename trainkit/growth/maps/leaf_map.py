"""How one parameter leaf grows: what every other part of growth agrees on.

An axis of size n becomes one of size n′ through an index map π: [n′] → [n] ∪ {∅}. A leaf W whose
axes all grow becomes

    W′[j, b, …] = c[j, b, …] · (W[π(j), π(b), …] + shift) − shift,

and, where the growth is even in the sense of the plan, its gradient becomes f · g[π(j), π(b), …].
Both factors are outer products of one vector an axis and one scalar, so that they are never
materialised at the size of the leaf.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np


class AxisMap(NamedTuple):
    """How one axis of one leaf grows.

    Attributes:
      source: int32[n′], the old unit that each new unit copies; −1 (∅) where it copies none.
      weight: float64[n′], this axis' factor on the weight; on what `fill` puts there for ∅.
      gradient: float64[n′], this axis' factor on the gradient.
      fill: what the entries of ∅ units hold: zeros, the mean over the old units of this axis (the
        row-mean rule that keeps LayerNorm exact), or fresh random values of the leaf's own scale.
    """

    source: np.ndarray
    weight: np.ndarray
    gradient: np.ndarray
    fill: Literal["zero", "mean", "random"] = "zero"

    @property
    def has_new(self) -> bool:
        """Whether there are ∅ units."""
        return bool((self.source < 0).any())


class LeafMap(NamedTuple):
    """How one leaf grows: one entry an axis (`None`: unchanged), and what holds for all of it.

    Attributes:
      axes: one `AxisMap` or `None` for each axis of the leaf.
      weight: scalar factor on the weight; c = weight · Πₐ axes[a].weight.
      gradient: scalar factor on the gradient; f = gradient · Πₐ axes[a].gradient.
      shift: the s of a leaf that is used as (w + s), such as a norm's 1 + w.
      exact_gradient: whether g′ = f · g[π] holds exactly; otherwise f is the best guess, and the
        certificate says so.
    """

    axes: tuple[AxisMap | None, ...]
    weight: float = 1.0
    gradient: float = 1.0
    shift: float = 0.0
    exact_gradient: bool = True
