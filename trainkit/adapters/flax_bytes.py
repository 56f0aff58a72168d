"""Trees of arrays in Flax's msgpack format, written one array at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np


def read_tree(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a file by name: keys joined by "/".

    Raises:
      ValueError: it is no such file, or holds something else than arrays.
    """
    import msgpack
    from flax import serialization

    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except (OSError, ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"{path} is no msgpack file of Flax: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} is no msgpack file of Flax: it holds a {type(tree).__name__}")
    found: dict[str, np.ndarray] = {}
    _collect(tree, "", found)
    return found


def _collect(tree: Any, name: str, found: dict[str, np.ndarray]) -> None:
    if isinstance(tree, dict):
        for key, child in tree.items():
            _collect(child, f"{name}/{key}" if name else key, found)
    elif tree is not None:
        found[name] = np.asarray(tree)


def write_tree(file: IO[bytes], names: Sequence[str], array: Callable[[str], np.ndarray]) -> None:
    """Writes arrays under their names; `array(name)` is called when its turn has come."""
    import msgpack
    from flax import serialization

    packer = msgpack.Packer()

    def write(inside: dict[str, str]) -> None:
        below: dict[str, dict[str, str]] = {}
        for rest, name in inside.items():
            key, _, more = rest.partition("/")
            below.setdefault(key, {})[more] = name
        file.write(packer.pack_map_header(len(below)))
        for key, children in below.items():
            file.write(packer.pack(key))
            if "" in children:
                file.write(serialization.msgpack_serialize(array(children[""])))
            else:
                write(children)

    write({name: name for name in names})
