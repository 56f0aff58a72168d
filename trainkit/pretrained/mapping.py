"""`Names`: which tensors of a checkpoint each leaf of a model is made of, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from trainkit.pretrained.layouts import Layout
from trainkit.pretrained.names import numbered, pattern_of

Shape = tuple[int, ...]


class Entry(NamedTuple):
    """One family of leaves, and the family of tensors that it is made of.

    Attributes:
      leaf, tensor: names with * for numbers.
      places: for each number of a leaf's name, which number of the tensor's name it is. The other
        numbers count along the first axes of the leaf, which is stacked.
      layout: how a tensor lies in a leaf, or in a row of it.
      dtype: of the tensors.
      matrix: whether a tensor has several axes, so that it may be transposed.
    """

    leaf: str
    tensor: str
    places: tuple[int, ...]
    layout: Layout
    dtype: np.dtype
    matrix: bool

    @property
    def axes(self) -> int:
        """Along how many axes leaves are stacked."""
        return self.tensor.count("*") - len(self.places)

    def name(self, numbers: Shape, row: Shape) -> str:
        """The name of the tensor of the leaf with these numbers, and of this row of it."""
        rows, filled = iter(row), dict(zip(self.places, numbers, strict=True))
        every = range(self.tensor.count("*"))
        return numbered(self.tensor, tuple(filled[i] if i in filled else next(rows) for i in every))

    def __str__(self) -> str:
        words = [f"stacked along {self.axes} axes" if self.axes > 1 else "stacked"][: self.axes]
        words += filter(None, [str(self.layout)])
        return f"{self.leaf} = {self.tensor}" + (f" ({', '.join(words)})" if words else "")


class Names(NamedTuple):
    """The entries of all leaves, by the name of their family."""

    entries: dict[str, Entry]

    def tensors(self, leaf: str, shape: Shape) -> dict[str, Shape]:
        """The names of the tensors of a leaf -> the row of the leaf."""
        entry, numbers = self.entry(leaf)
        return {entry.name(numbers, row): row for row in np.ndindex(*shape[: entry.axes])}

    def specs(self, leaf: str, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of the tensors of a leaf."""
        entry, _ = self.entry(leaf)
        one = jax.ShapeDtypeStruct(entry.layout.tensor_shape(shape[entry.axes :]), entry.dtype)
        return dict.fromkeys(self.tensors(leaf, shape), one)

    def leaf(self, name: str, shape: Shape, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """A leaf, from its tensors."""
        entry, _ = self.entry(name)
        rows = self.tensors(name, shape)
        inner = shape[entry.axes :]
        if not entry.axes:
            (tensor,) = rows
            return entry.layout.to_leaf(read(tensor), inner)
        out = np.empty(shape, entry.dtype)
        for tensor, row in rows.items():
            out[row] = entry.layout.to_leaf(read(tensor), inner)
        return out

    def tensor(self, leaf: str, value: np.ndarray, row: Shape) -> np.ndarray:
        """The tensor of one row of a leaf."""
        return self.entry(leaf)[0].layout.to_tensor(value[row])

    def __contains__(self, leaf: object) -> bool:
        return leaf in self.entries or pattern_of(str(leaf))[0] in self.entries

    def entry(self, leaf: str) -> tuple[Entry, Shape]:
        """The entry of a leaf, and the numbers in its name."""
        if leaf in self.entries:
            return self.entries[leaf], ()
        pattern, numbers = pattern_of(leaf)
        return self.entries[pattern], numbers

    def __str__(self) -> str:
        return "\n".join(str(entry) for entry in self.entries.values())
