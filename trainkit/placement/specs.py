"""How the leaves of a state are laid out over a mesh: by size, or by (regex, spec) rules."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from trainkit._core.paths import compiled, path_name

PyTree = Any


@dataclasses.dataclass(frozen=True)
class BySize:
    """Shards each leaf of at least `min_size` elements along its longest axis that divides evenly.

    Attributes:
      min_size: smaller leaves stay replicated, which is cheaper than gathering them.
      axes: the mesh axes to shard over; `None`: all.
    """

    min_size: int = 2**10
    axes: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Rules:
    """(regex, PartitionSpec) pairs; the first regex found in a parameter's path decides.

    Every parameter must match one (`PartitionSpec()` replicates), so that a renamed layer is an
    error. An optimizer-state leaf has the layout of the parameter whose path is the end of its own
    path, if their shapes agree; all other leaves of the state are replicated.
    """

    rules: tuple[tuple[str, PartitionSpec], ...]

    def __post_init__(self) -> None:
        for rule in self.rules:
            pair = isinstance(rule, tuple | list) and len(rule) == 2
            if not (pair and isinstance(rule[1], PartitionSpec)):
                raise TypeError(
                    "rules must be pairs of a regular expression and a PartitionSpec, such as "
                    f"('kernel', PartitionSpec('data')), not {rule!r}."
                )
        compiled((pattern for pattern, _ in self.rules), "rules")


def axes_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes in one entry of a PartitionSpec."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _by_size(layout: BySize, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    axes = layout.axes or tuple(mesh.axis_names)
    parts = math.prod(mesh.shape[a] for a in axes)
    if math.prod(shape) < layout.min_size:
        return PartitionSpec()
    for dim in sorted(range(len(shape)), key=lambda d: -shape[d]):
        if shape[dim] % parts == 0:
            return PartitionSpec(*[None] * dim, axes if len(axes) > 1 else axes[0])
    return PartitionSpec()


def _by_rule(layout: Rules, name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec | None:
    found = next((rule for rule in layout.rules if re.search(rule[0], name)), None)
    if found is None:
        return None
    pattern, spec = found
    if len(spec) > len(shape):
        raise ValueError(
            f"rule ({pattern!r}, {spec}) names {len(spec)} axes, but {name} has shape {shape}."
        )
    for dim, entry in enumerate(spec):
        unknown = [a for a in axes_of(entry) if a not in mesh.shape]
        if unknown:
            raise ValueError(
                f"rule ({pattern!r}, {spec}) names the mesh axis {unknown[0]!r}; the mesh has "
                f"{tuple(mesh.shape)}."
            )
        parts = math.prod(mesh.shape[a] for a in axes_of(entry))
        if shape[dim] % parts:
            raise ValueError(
                f"{name} has shape {shape}: its axis {dim} does not divide into the {parts} parts "
                f"that the rule ({pattern!r}, {spec}) asks for; shard another axis or use "
                "PartitionSpec()."
            )
    return spec


def params_specs(layout: BySize | Rules | None, params: PyTree, mesh: Mesh) -> PyTree:
    """A PartitionSpec for each parameter."""
    if layout is None:
        return jax.tree.map(lambda _: PartitionSpec(), params)
    if isinstance(layout, BySize):
        return jax.tree.map(lambda x: _by_size(layout, x.shape, mesh), params)
    uncovered: list[str] = []

    def by_rule(path: Any, x: Any) -> PartitionSpec:
        spec = _by_rule(layout, path_name(path), x.shape, mesh)
        if spec is None:
            uncovered.append(f"{path_name(path)} {x.shape}")
        return spec or PartitionSpec()

    specs = jax.tree_util.tree_map_with_path(by_rule, params)
    if uncovered:
        raise ValueError(
            "no rule covers these parameters: "
            + ", ".join(uncovered)
            + "; end the rules with ('.*', PartitionSpec()) to replicate the rest."
        )
    return specs


def state_specs(layout: BySize | Rules | None, state: Any, mesh: Mesh) -> Any:
    """A PartitionSpec for each leaf of a TrainState."""
    if not isinstance(layout, Rules):
        # The optimizer's moments have the shapes of the parameters, hence their layout.
        return params_specs(layout, state, mesh)
    specs = params_specs(layout, state.params, mesh)
    paths, _ = jax.tree_util.tree_flatten_with_path(state.params)
    known = {
        tuple(path): (leaf.shape, spec)
        for (path, leaf), spec in zip(paths, jax.tree.leaves(specs), strict=True)
    }

    def follow(path: Any, leaf: Any) -> PartitionSpec:
        for start in range(len(path) + 1):
            shape, spec = known.get(tuple(path[start:]), (None, None))
            if spec is not None and shape == leaf.shape:
                return spec
        return PartitionSpec()

    followed = jax.tree_util.tree_map_with_path(follow, state)
    return followed.replace(params=specs)
