"""`Tensors`: a checkpoint whose tensors are read one at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

Shapes = Mapping[str, jax.ShapeDtypeStruct]


class Tensors(Protocol):
    """A checkpoint.

    Attributes:
      kind: the format, in words.
      shapes: name -> shape and dtype of each tensor.
      left: what of the checkpoint is not taken, in words.
    """

    kind: str
    shapes: dict[str, jax.ShapeDtypeStruct]
    left: tuple[str, ...]

    def read(self, name: str) -> np.ndarray:
        """One tensor."""

    def check_out(self, out: Path) -> None:
        """Raises a ValueError if `out` is no place for this format."""

    def write(self, out: Path, shapes: Shapes, tensor: Callable[[str], np.ndarray]) -> None:
        """Writes a checkpoint of this format; `tensor(name)` is called once for each name."""


def check_suffix(out: Path, suffix: str) -> None:
    """Refuses a name with another suffix."""
    if out.suffix != suffix:
        raise ValueError(
            f"the grown checkpoint is a {suffix} file like the old one, not {out.name}"
        )


@contextlib.contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A place to write to, which becomes `out` at the end: it is whole or not there."""
    part = out.with_name(f"{out.name}.new")
    try:
        yield part
        os.replace(part, out)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def spec(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array on the host, also of 64 bits."""
    return jax.ShapeDtypeStruct(tuple(array.shape), array.dtype)
