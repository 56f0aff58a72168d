"""Data of a progressive run's stages: subset, sequence length, resolution, batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from trainkit._core import validation
from trainkit.data.sampler import Sampler
from trainkit.data.text import CharCorpus

PyTree = Any


class Amount(Protocol):
    """The fields of `trainkit.progressive.Data`: sizes, `None` for the full data."""

    @property
    def subset(self) -> float | int | None: ...
    @property
    def sequence_length(self) -> int | None: ...
    @property
    def resolution(self) -> int | None: ...
    @property
    def batch_size(self) -> int | None: ...


def staged(
    data: PyTree | CharCorpus, batch_size: int, *, seed: int = 0, shuffle: bool = True
) -> Callable[[Amount], Sampler]:
    """A function `Data -> Sampler` for progressive runs whose data change.

    Args:
      data: pytree of arrays with one leading size, or a `CharCorpus`.
      batch_size: of the stages that name none.
      seed: of the order, and of which examples a subset has: a larger subset has all of a smaller.
      shuffle: as for `Sampler`.

    `resolution` reduces square images (n, side, side, channels) by the mean over blocks.
    `sequence_length` is the length of a corpus's windows.

    Raises:
      ValueError: raised by the function for a size that the data does not have.

    >>> from trainkit.progressive import Data
    >>> make = staged({"image": np.ones((8, 4, 4, 1), np.float32)}, batch_size=2)
    >>> next(make(Data(subset=0.5, resolution=2)))["image"].shape
    (2, 2, 2, 1)
    """

    validation.integer("batch_size", batch_size, "staged")
    validation.integer("seed", seed, "staged", least=0, below=2**63)

    def make(amount: Amount) -> Sampler:
        size = amount.batch_size or batch_size
        if isinstance(data, CharCorpus):
            if amount.sequence_length is None:
                raise ValueError("A corpus needs Data(sequence_length=…) in the first stage.")
            if amount.resolution is not None:
                raise ValueError(f"{amount}: a corpus has no resolution, only a sequence_length.")
            text = data
            if amount.subset is not None:
                length = _count(amount.subset, len(data.tokens))
                text = CharCorpus(data.tokens[:length], data.vocabulary)
            return Sampler(text.windows(amount.sequence_length), size, seed=seed, shuffle=shuffle)
        part = data
        if amount.sequence_length is not None:
            raise ValueError(
                f"{amount}: sequence_length needs a CharCorpus; for arrays, write your own "
                "function Data -> Sampler."
            )
        if amount.subset is not None:
            n = validation.leading_size(data, "data")
            order = np.random.default_rng([seed, 0x57A6E]).permutation(n)
            chosen = np.sort(order[: _count(amount.subset, n)])
            part = jax.tree.map(lambda leaf: leaf[chosen], part)
        if amount.resolution is not None:
            side = amount.resolution
            if not any(np.ndim(leaf) == 4 for leaf in jax.tree.leaves(part)):
                raise ValueError(f"{amount}: there are no images (n, side, side, channels).")
            part = jax.tree.map(lambda x: coarser(x, side) if x.ndim == 4 else x, part)
        return Sampler(part, size, seed=seed, shuffle=shuffle)

    return make


def coarser(images: np.ndarray, side: int) -> np.ndarray:
    """Images (n, s, s, channels) at a lower resolution, by the mean over s/side × s/side blocks.

    Integers are rounded to nearest.

    >>> coarser(np.arange(4.0).reshape(1, 2, 2, 1), 1).ravel()
    array([1.5])
    """
    n, height, width, channels = images.shape
    if height % side or width % side:
        raise ValueError(
            f"Images of {height} × {width} pixels cannot be averaged to {side} × {side}: use a "
            f"divisor of {height}."
        )
    by = height // side
    blocks = images.reshape(n, side, by, side, width // side, channels)
    mean = blocks.mean(axis=(2, 4), dtype=np.float32)
    if np.issubdtype(images.dtype, np.integer):
        mean = np.rint(mean)
    return mean.astype(images.dtype)


def _count(subset: float | int, n: int) -> int:
    count = round(subset * n) if isinstance(subset, float) else subset
    if not 1 <= count <= n:
        raise ValueError(f"subset={subset} is {count} of {n} examples; it must be from 1 to {n}.")
    return count
