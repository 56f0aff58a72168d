"""Where leaves are read from: a step in a folder of checkpoints, or a safetensors file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trainkit.loop.saved.step import read_leaves, step_info
from trainkit.loop.saved.tensor_file import file_leaves

Read = Callable[[Iterable[str]], Mapping[str, Any]]


def opened(path: Path, step: int) -> tuple[Mapping[str, Any], Read]:
    """(info, names -> leaves) of a step in a folder, or of a file."""
    if path.is_file():
        leaves, found = file_leaves(path)
        return found, lambda names: {name: leaves[name] for name in names}
    return step_info(path, step)[0], lambda names: read_leaves(path, step, names)[0]
