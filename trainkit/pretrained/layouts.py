"""How a tensor of a file lies in a leaf of a model: transposed, with axes merged, stacked."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How one tensor becomes a leaf (or one row of a stacked leaf), and back.

    Attributes:
      transposed: whether outputs are the first axis, as in PyTorch: (out, in, …) for (…, in, out).
      cut: for a matrix whose leaf has more axes, how many of the leaf's axes are the first axis.
    """

    transposed: bool = False
    cut: int | None = None

    def to_leaf(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        """The leaf of a tensor."""
        if self.transposed:
            tensor = tensor.transpose(*range(2, tensor.ndim), 1, 0)
        return tensor.reshape(shape)

    def to_tensor(self, leaf: np.ndarray) -> np.ndarray:
        """The tensor of a leaf."""
        if self.cut is not None:
            leaf = leaf.reshape(math.prod(leaf.shape[: self.cut]), -1)
        if self.transposed:
            n = leaf.ndim
            leaf = leaf.transpose(n - 1, n - 2, *range(n - 2))
        return leaf

    def tensor_shape(self, shape: Shape) -> Shape:
        """The shape of the tensor of a leaf."""
        return self.to_tensor(np.broadcast_to(np.zeros(()), shape)).shape if shape else ()

    def __str__(self) -> str:
        words = ["transposed"] if self.transposed else []
        return ", ".join([*words, "axes merged"] if self.cut is not None else words)


def layouts(tensor: Shape, leaf: Shape) -> list[Layout]:
    """The layouts in which a tensor of one shape is a leaf of another shape."""
    n = len(tensor)
    turned = (*tensor[2:], tensor[1], tensor[0]) if n > 1 else None
    if n == len(leaf):
        return [Layout(flag) for flag, shape in ((False, tensor), (True, turned)) if shape == leaf]
    if n == 2 and len(leaf) > 2:
        return [
            Layout(flag, cut)
            for flag, (a, b) in ((False, tensor), (True, tensor[::-1]))
            for cut in range(1, len(leaf))
            if (math.prod(leaf[:cut]), math.prod(leaf[cut:])) == (a, b)
        ]
    if n == 1 and len(leaf) > 1 and math.prod(leaf) == tensor[0]:
        return [Layout(cut=len(leaf))]
    return []
