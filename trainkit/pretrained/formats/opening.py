"""The choice of a format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainkit.pretrained.formats import flax_file, npz_file, orbax_folder, safetensors_files
from trainkit.pretrained.formats.tensors import Tensors

FORMATS: list[Any] = [safetensors_files, npz_file, flax_file, orbax_folder]


def opened(path: Path) -> Tensors:
    """The checkpoint in a file or folder.

    Raises:
      ValueError: there is none, it cannot be read, or its format is unknown.
    """
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}")
    for module in FORMATS:
        if module.is_one(path):
            return module.Checkpoint(path)
    raise ValueError(
        f"{path} is no checkpoint of a known format: a .safetensors file or a folder of them, a "
        ".msgpack file of Flax, an .npz file, a folder of Orbax, or a run of trainkit"
    )
