"""One possible way to add layers, as data."""

from __future__ import annotations

from typing import NamedTuple

from trainkit.growth.depth.flat_model import Shape
from trainkit.growth.ir.program import Program
from trainkit.growth.plan.data import Layer


class DepthCandidate(NamedTuple):
    """One possible way to add layers.

    Attributes:
      layers: leaf of the big model -> its origin.
      old: leaf of the small model -> its name in the big one.
      shapes: leaf of the big model -> its shape with the small model's number of layers.
      small, big: the two programs, `big` without its new layers. `big` is `None` if new layers
        change the function and no width grows, so that nothing needs a proof.
      eyes: leaf of the big model that is an identity matrix -> its shape at the small widths.
        These are additional inputs of `small`.
      channels: the axes of further inputs of both programs, which come last: the results of new
        layers that are concatenated to old values, with no channels in `small`.
    """

    layers: dict[str, Layer]
    old: dict[str, str]
    shapes: dict[str, Shape]
    small: Program
    big: Program | None
    eyes: dict[str, Shape]
    channels: tuple[int, ...] = ()
