"""Flax's msgpack: a tree of dicts, as `flax.serialization.to_bytes` writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainkit.adapters.flax_bytes import read_tree, write_tree
from trainkit.pretrained.formats.tensors import Shapes, check_suffix, spec, whole

SUFFIX = ".msgpack"


def is_one(path: Path) -> bool:
    """Whether a path is a checkpoint of this format."""
    return path.suffix == SUFFIX


class Checkpoint:
    """See `Tensors`. The file is read at once."""

    kind = "msgpack"
    left = ()

    def __init__(self, path: Path):
        self._arrays = read_tree(path)
        self.shapes = {name: spec(array) for name, array in self._arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def check_out(self, out: Path) -> None:
        check_suffix(out, SUFFIX)

    def write(self, out: Path, shapes: Shapes, tensor: Callable[[str], np.ndarray]) -> None:
        with whole(out) as part, part.open("wb") as file:
            write_tree(file, list(shapes), tensor)
