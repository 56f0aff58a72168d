"""Safetensors: one file, or a folder of shards with an index, as on the Hugging Face Hub.

A file is the length of a header (8 bytes), the header as JSON (dtype, shape and place of every
tensor), and the tensors' bytes. Tensors are mapped into memory when they are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.loop.saved.tensor_file import DTYPES
from trainkit.pretrained.formats.tensors import Shapes, check_suffix, whole

SUFFIX, FILE = ".safetensors", "model.safetensors"
INDEX = f"{FILE}.index.json"
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def is_one(path: Path) -> bool:
    """Whether a path is a checkpoint of this format."""
    if path.is_dir():
        return (path / INDEX).exists() or bool(_files(path))
    return path.suffix == SUFFIX or path.name.endswith(INDEX)


class Checkpoint:
    """See `Tensors`. `limit` is the size of the largest shard, in bytes; `None` for one file."""

    kind = "safetensors"

    def __init__(self, path: Path):
        self.folder = path if path.is_dir() else path.parent
        self.single = path.suffix == SUFFIX
        self.shapes: dict[str, jax.ShapeDtypeStruct] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        self._metadata: dict[str, str] = {}
        files = [path] if self.single else _shards(self.folder, path)
        for file in files:
            self._open(file)
        self.limit = max(f.stat().st_size for f in files) if len(files) > 1 else None
        others = [] if self.single else sorted(set(self.folder.iterdir()) - {*files})
        self.left = tuple(each.name for each in others if not each.name.endswith(INDEX))

    def _open(self, file: Path) -> None:
        try:
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                if length > file.stat().st_size:
                    raise ValueError("its header is longer than the file")
                header = json.loads(opened.read(length))
            self._metadata |= header.pop("__metadata__", {})
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                found = jax.ShapeDtypeStruct(tuple(entry["shape"]), _dtype(name, entry["dtype"]))
                size = math.prod(found.shape) * found.dtype.itemsize
                if end - start != size or 8 + length + end > file.stat().st_size:
                    raise ValueError(f"{name} is cut off")
                self.shapes[name] = found
                self._places[name] = file, 8 + length + start
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no safetensors file that can be read: {error}") from error

    def read(self, name: str) -> np.ndarray:
        shape, (file, start) = self.shapes[name], self._places[name]
        if not math.prod(shape.shape):
            return np.zeros(shape.shape, shape.dtype)
        count = math.prod(shape.shape) * shape.dtype.itemsize
        raw = np.memmap(file, np.uint8, "r", start, (count,))
        return raw.view(shape.dtype).reshape(shape.shape)

    def check_out(self, out: Path) -> None:
        if self.single:
            check_suffix(out, SUFFIX)
        elif out.suffix == SUFFIX:
            raise ValueError(f"the grown checkpoint is a folder like the old one, not {out.name}")

    def write(self, out: Path, shapes: Shapes, tensor: Callable[[str], np.ndarray]) -> None:
        with whole(out) as part:
            if self.single:
                _write(part, shapes, list(shapes), tensor, self._metadata)
                return
            part.mkdir()
            shards = _divided(shapes, self.limit)
            files = [FILE] if len(shards) == 1 else [
                f"model-{i:05}-of-{len(shards):05}{SUFFIX}" for i in range(1, len(shards) + 1)
            ]  # fmt: skip
            for file, names in zip(files, shards, strict=True):
                _write(part / file, shapes, names, tensor, self._metadata)
            if len(files) > 1:
                places = {n: f for f, names in zip(files, shards, strict=True) for n in names}
                total = {"total_size": sum(_size(shape) for shape in shapes.values())}
                index = {"metadata": total, "weight_map": dict(sorted(places.items()))}
                (part / INDEX).write_text(json.dumps(index, indent=2))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _shards(folder: Path, path: Path) -> list[Path]:
    index = folder / INDEX if path.is_dir() else path
    if not index.exists():
        files = _files(folder)
        if len(files) > 1:
            some = ", ".join(file.name for file in files[:4])
            raise ValueError(f"{folder} has several files and no {INDEX}: give one of {some}")
        return files
    try:
        places = json.loads(index.read_text())["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of shards: {type(error).__name__} {error}") from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{index} names {missing[0]}, which is not there")
    return [folder / name for name in names]


def _dtype(name: str, text: str) -> Any:
    if text not in DTYPES:
        raise ValueError(f"{name} is {text}, which has no array here")
    return jnp.dtype(DTYPES[text])


def _size(shape: jax.ShapeDtypeStruct) -> int:
    return math.prod(shape.shape) * shape.dtype.itemsize


def _divided(shapes: Shapes, limit: int | None) -> list[list[str]]:
    """The names of each shard, in order."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, shape in shapes.items():
        if limit is not None and shards[-1] and used + _size(shape) > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += _size(shape)
    return shards


def _write(
    file: Path,
    shapes: Shapes,
    names: list[str],
    tensor: Callable[[str], np.ndarray],
    metadata: dict[str, str],
) -> None:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    # The largest dtypes first, so that every tensor is aligned.
    names = sorted(names, key=lambda name: -shapes[name].dtype.itemsize)
    for name in names:
        shape, end = shapes[name], at + _size(shapes[name])
        dtype = NAMES[str(shape.dtype)]
        header[name] = {"dtype": dtype, "shape": list(shape.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            opened.write(np.ascontiguousarray(tensor(name)).view(np.uint8).data)
