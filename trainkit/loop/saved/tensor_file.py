"""Export of a state to a safetensors file, which other frameworks can read, and import.

Names are those of the checkpoint. What safetensors does not have (lists, kinds of random keys) is
in the metadata of the file, so that an imported state equals the exported one.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.loop.saved.containers import nested, renamed_path
from trainkit.loop.saved.leaves import data_of
from trainkit.loop.saved.step import CheckpointError, read_leaves

PyTree = Any
OWN = "trainkit"  # the key of our metadata
# fmt: off
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "I8": "int8",
    "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16", "BF16": "bfloat16",
    "F32": "float32", "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}
# fmt: on


def export_step(folder: Path, step: int, names: Iterable[str], file: Path) -> None:
    """Writes leaves of a step to a file, atomically.

    Raises:
      CheckpointError: safetensors is not installed, lacks a dtype, or the file cannot be written.
    """
    _check_installed()
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    leaves, info = read_leaves(folder, step, names)
    arrays = {name: np.array(data_of(leaf), order="C") for name, leaf in leaves.items()}
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES.values():
            raise CheckpointError(
                f"{name} is {array.dtype}, which safetensors does not have: exclude it with --only."
            )
    own = {
        "step": step,
        "versions": info["_versions"],
        "paths": {name: info["_ways"][name] for name in leaves},
        "keys": {name: kind for name, kind in info["_keys"].items() if name in leaves},
    }
    part = file.with_name(f"{file.name}.new")
    try:
        # Without following a link.
        part.unlink(missing_ok=True)
        save_file(arrays, part, metadata={OWN: json.dumps(own)})
        os.replace(part, file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} could not be written: {error}.") from error


def import_file(file: Path) -> tuple[PyTree, dict[str, Any]]:
    """The tree in a file (dicts, and lists if trainkit wrote it), and our metadata.

    Raises:
      CheckpointError: safetensors is not installed; there is no such file, or it is damaged.
    """
    leaves, info = file_leaves(file)
    return nested(leaves, info["_ways"]), info


def file_leaves(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(name -> NumPy array or random key, info as of a saved step) of a file.

    Where trainkit did not write it, a dot in a name separates as "/" does: "encoder.0.weight".

    Raises:
      CheckpointError: see `import_file`.
    """
    _check_installed()
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        tensors = deserialize(file.read_bytes())
        with safe_open(file, framework="np") as opened:
            own = json.loads((opened.metadata() or {}).get(OWN, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{file} is not a safetensors file that can be read: {error}."
        ) from error
    leaves: dict[str, Any] = {}
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        if tensor["dtype"] not in DTYPES:
            raise CheckpointError(
                f"{name} in {file} is {tensor['dtype']}, which has no array here."
            )
        dtype = jnp.dtype(DTYPES[tensor["dtype"]])
        leaves[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    paths = own.get("paths")
    if paths is None:
        leaves = {name.replace(".", "/"): leaf for name, leaf in leaves.items()}
        paths = {name: renamed_path(name, []) for name in leaves}
    shapes = {name: (leaves[name].shape, str(leaves[name].dtype)) for name in paths}
    for name, kind in own.get("keys", {}).items():
        leaves[name] = jax.random.wrap_key_data(jnp.asarray(leaves[name]), impl=kind)
    found = {"_ways": paths, "_leaves": shapes, "_step": own.get("step", 0)}
    return {name: leaves[name] for name in paths}, found


def _check_installed() -> None:
    if importlib.util.find_spec("safetensors") is None:
        raise CheckpointError(
            "This needs another package: pip install 'trainkit[export]' (safetensors)."
        )
