"""The files beside the arrays of a step: its `info`, and a digest of every array.

Each process writes one file with the digests of its shards; that of process 0 also has the `info`.
Each file contains the digest of its own content.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainkit._core.identity import digest
from trainkit._core.versions import versions
from trainkit.loop.saved.containers import to_json
from trainkit.loop.saved.leaves import is_key, key_kind, paths_by_name

# leaf -> region of the array -> digest
Digests = dict[str, dict[str, str]]


def own_parts(array: Any) -> dict[str, np.ndarray]:
    """Region -> part of an array, for the parts that this process saves."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return {
            _region(shard.index, array.shape): np.array(shard.data, copy=True)
            for shard in array.addressable_shards
            if shard.replica_id == 0
        }
    return {_region((), np.shape(array)): np.asarray(array)}


def described(leaves: Mapping[str, Any], arrays: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """The reserved entries of `info`: leaves, their paths, time, processes and versions."""
    return {
        "_time": time.time(),
        "_processes": jax.process_count(),
        "_versions": versions(),
        "_leaves": {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in arrays.items()},
        "_ways": {name: to_json(path) for name, path in paths_by_name(state).items()},
        "_keys": {name: key_kind(leaf) for name, leaf in leaves.items() if is_key(leaf)},
    }


def is_changed(array: Any, saved: Mapping[str, str]) -> bool:
    """Whether a local part of a restored array differs from what was saved."""
    return any(
        part is not None and digest(part) != expected
        for part, expected in ((_part(array, region), value) for region, value in saved.items())
    )


def can_be_checked(shape: Any, saved: Mapping[str, str]) -> bool:
    """Whether the shards of this shape and sharding include all the regions that were saved.

    This is always true for an array of one process, which can be sliced freely.
    """
    sharding = getattr(shape, "sharding", None)
    if sharding is None or sharding.is_fully_addressable:
        return True
    indices = sharding.devices_indices_map(tuple(shape.shape)).values()
    return set(saved) <= {_region(index, shape.shape) for index in indices}


def write_info(path: Path, info: Mapping[str, Any], digests: Digests) -> None:
    """Writes the file of one process."""
    content = {"info": dict(info), "digests": digests}
    sealed = {**content, "seal": digest(json.dumps(content))}
    path.write_text(json.dumps(sealed), encoding="utf-8")


def read_info(folder: Path) -> tuple[dict[str, Any], Digests]:
    """The `info` and the digests that all processes wrote.

    Raises:
      OSError, ValueError: a file is missing or damaged.
    """
    info, digests = _read(folder / "0.json")
    for process in range(1, info["_processes"]):
        for name, parts in _read(folder / f"{process}.json")[1].items():
            digests.setdefault(name, {}).update(parts)
    return info, digests


def _read(path: Path) -> tuple[dict[str, Any], Digests]:
    content = json.loads(path.read_text(encoding="utf-8"))
    seal = content.pop("seal", None) if isinstance(content, dict) else None
    if seal != digest(json.dumps(content)):
        raise ValueError(f"{path.name} differs from what was written")
    return content["info"], content["digests"]


def _region(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    index = index or (slice(None),) * len(shape)
    bounds = (part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
    return ",".join(f"{start}:{stop}" for start, stop in bounds)


def _part(array: Any, region: str) -> np.ndarray | None:
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        bounds = (part.split(":") for part in region.split(",") if part)
        return np.asarray(array)[tuple(slice(int(a), int(b)) for a, b in bounds)]
    for shard in array.addressable_shards:
        if _region(shard.index, array.shape) == region:
            return np.asarray(shard.data)
    return None
