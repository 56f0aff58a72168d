"""`LeafMap`: how one parameter leaf grows.

An axis of size n becomes one of size n′ by an index map π: [n′] → [n] ∪ {∅}. Units with π(j) = ∅
are padding units. A leaf W becomes

    W′[j, b, …] = c[j, b, …] · (W[π(j), π(b), …] + shift) − shift,

and its gradient becomes f · g[π(j), π(b), …], exactly or as a best guess. Both factors are outer
products of one vector for each axis and a scalar, so they are never materialised at the size of the
leaf.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np


class AxisMap(NamedTuple):
    """How one axis of one leaf grows.

    Attributes:
      source: int32[n′], the old unit that each new unit copies; −1 for ∅.
      weight: float64[n′], the factor of this axis on the weight; at ∅, on the value of `fill`.
      gradient: float64[n′], the factor of this axis on the gradient.
      fill: what ∅ units hold: zeros, the mean over the old units of this axis (which keeps a
        LayerNorm exact), or random values of the leaf's scale.
      around: of a merged axis, the sizes of what stands before and behind the factor over which
        that mean is taken.
    """

    source: np.ndarray
    weight: np.ndarray
    gradient: np.ndarray
    fill: Literal["zero", "mean", "random"] = "zero"
    around: tuple[int, int] = (1, 1)

    @property
    def has_new(self) -> bool:
        """Whether there are ∅ units."""
        return bool((self.source < 0).any())


class LeafMap(NamedTuple):
    """How one leaf grows.

    Attributes:
      axes: an `AxisMap` for each axis of the leaf; `None` for axes that do not change.
      weight: scalar factor on the weight; c = weight · Πₐ axes[a].weight.
      gradient: scalar factor on the gradient; f = gradient · Πₐ axes[a].gradient.
      shift: the constant s of a leaf that is used as w + s, such as 1 + w in a norm.
      exact_gradient: whether g′ = f · g[π] is exact. Otherwise f is a best guess, and the
        certificate lists the leaf as calibrated.
    """

    axes: tuple[AxisMap | None, ...]
    weight: float = 1.0
    gradient: float = 1.0
    shift: float = 0.0
    exact_gradient: bool = True
