"""Npz: the arrays of `numpy.savez`."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from trainkit.pretrained.formats.tensors import Shapes, check_suffix, spec, whole

SUFFIX = ".npz"


def is_one(path: Path) -> bool:
    """Whether a path is a checkpoint of this format."""
    return path.suffix == SUFFIX


class Checkpoint:
    """See `Tensors`."""

    kind = "npz"
    left = ()

    def __init__(self, path: Path):
        try:
            self._file = np.load(path, allow_pickle=False)
            self.shapes = {name: spec(self.read(name)) for name in self._file.files}
        except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
            raise ValueError(f"{path} is no .npz file that can be read: {error}") from error

    def read(self, name: str) -> np.ndarray:
        array = self._file[name]
        # NumPy stores bfloat16 as raw words of two bytes.
        return array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array

    def check_out(self, out: Path) -> None:
        check_suffix(out, SUFFIX)

    def write(self, out: Path, shapes: Shapes, tensor: Callable[[str], np.ndarray]) -> None:
        with whole(out) as part, zipfile.ZipFile(part, "w", allowZip64=True) as file:
            for name in shapes:
                array = np.ascontiguousarray(tensor(name))
                array = array.view("V2") if array.dtype == jnp.bfloat16 else array
                with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
