"""Orbax: a checkpoint of trainkit, or any folder that Orbax wrote.

Orbax writes a tree at once, so a grown checkpoint is in memory as a whole before it is written.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves
from trainkit.loop.checkpoint import Checkpointer
from trainkit.loop.saved.containers import KEY, PLACE, JsonPath, nested
from trainkit.loop.saved.step import read_leaves, step_info, steps_in
from trainkit.loop.transfer.restore import steps_folder
from trainkit.pretrained.formats.tensors import Shapes, spec, whole

PARTS = "params/", "model_state/"


def is_one(path: Path) -> bool:
    """Whether a path is a checkpoint of this format."""
    return path.is_dir() and (_is_ours(path) or _foreign(path) is not None)


def _is_ours(path: Path) -> bool:
    folder = steps_folder(path)
    steps = steps_in(folder)
    return bool(steps) and (folder / str(steps[-1]) / "info").exists()


def _foreign(path: Path) -> Path | None:
    """The folder of a tree: itself, or the item "default" of the newest step of a manager."""
    steps = steps_in(path)
    newest = [path / str(steps[-1])] if steps else []
    for folder in (path, *newest, *(each / "default" for each in (path, *newest))):
        if (folder / "_METADATA").exists():
            return folder
    return None


class Checkpoint:
    """See `Tensors`."""

    kind = "orbax"

    def __init__(self, path: Path):
        self.left: tuple[str, ...] = ()
        self._step: int | None = None
        self._ways: dict[str, JsonPath] = {}
        if _is_ours(path):
            self._folder = steps_folder(path)
            self._step = steps_in(self._folder)[-1]
            self._read_info()
        else:
            found = _foreign(path)
            assert found is not None
            self._folder = found
            self._read_metadata()

    def _read_info(self) -> None:
        assert self._step is not None
        info, _ = step_info(self._folder, self._step)
        names = [name for name in info["_leaves"] if name.startswith(PARTS)]
        names = names or list(info["_leaves"])
        self.left = tuple(dict.fromkeys(n.split("/")[0] for n in info["_leaves"].keys() - {*names}))
        self._ways = {name: info["_ways"][name] for name in names}
        leaves = {name: info["_leaves"][name] for name in names}
        self.shapes = {
            name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
            for name, (shape, dtype) in leaves.items()
        }

    def _read_metadata(self) -> None:
        import orbax.checkpoint as ocp

        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.metadata(self._folder).tree
        is_leaf = lambda x: hasattr(x, "shape") and hasattr(x, "dtype")
        self.shapes = {}
        for at, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf):
            keys = [getattr(k, "key", getattr(k, "idx", k)) for k in at]
            name = "/".join(map(str, keys))
            self.shapes[name] = spec(leaf)
            self._ways[name] = [[PLACE if isinstance(k, int) else KEY, k] for k in keys]

    def read(self, name: str) -> np.ndarray:
        if self._step is not None:
            return read_leaves(self._folder, self._step, [name])[0][name]
        return self._whole[name]

    @functools.cached_property
    def _whole(self) -> dict[str, np.ndarray]:
        """All tensors of a tree that is not ours; Orbax reads it at once."""
        import orbax.checkpoint as ocp

        item = _tree({n: np.empty(x.shape, x.dtype) for n, x in self.shapes.items()}, self._ways)
        how = ocp.checkpoint_utils.construct_restore_args(item)
        args = ocp.args.PyTreeRestore(item, restore_args=how)
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
            return {n: np.asarray(x) for n, x in
                    named_leaves(reader.restore(self._folder, args=args)).items()}  # fmt: skip

    def check_out(self, out: Path) -> None:
        if out.suffix in (".safetensors", ".npz", ".msgpack"):
            raise ValueError(f"the grown checkpoint is a folder like the old one, not {out.name}")

    def write(self, out: Path, shapes: Shapes, tensor: Callable[[str], np.ndarray]) -> None:
        tree = _tree({name: tensor(name) for name in shapes}, _ways(shapes, self._ways))
        with whole(out) as part:
            if self._step is not None:
                with Checkpointer(part) as checkpoints:
                    checkpoints.save(self._step, tree)
                return
            import orbax.checkpoint as ocp

            with ocp.StandardCheckpointer() as writer:
                writer.save(part.absolute(), tree)


def _tree(leaves: dict[str, Any], ways: dict[str, JsonPath]) -> Any:
    return nested(leaves, {name: ways[name] for name in leaves})


def _ways(names: Iterable[str], known: dict[str, JsonPath]) -> dict[str, JsonPath]:
    """The way to each leaf: numbers are places in lists where they were before."""
    numbers = lambda parts: re.sub(r"\d+", "*", "/".join(map(str, parts)))
    lists = {
        numbers([value for _, value in way[:i]])
        for way in known.values()
        for i, (kind, _) in enumerate(way)
        if kind == PLACE
    }
    found = {}
    for name in names:
        parts = name.split("/")
        found[name] = known.get(name) or [
            [PLACE, int(part)] if part.isdigit() and numbers(parts[:i]) in lists else [KEY, part]
            for i, part in enumerate(parts)
        ]
    return found
