"""Checks of the devices that a state and a batch are on."""

from __future__ import annotations

from typing import Any

import jax

from trainkit._core.paths import named_leaves, path_name
from trainkit._core.validation.steps import batch_name

PyTree = Any


def is_fresh(state: PyTree) -> bool:
    """Whether no leaf is committed to a device, so that the step may place the state."""
    return all(not getattr(x, "committed", False) for x in jax.tree.leaves(state))


def placed(state: PyTree, placement: Any) -> None:
    """Raises ValueError for a leaf that does not have the sharding of the placement."""
    hint = "call state = step.place(state) first; it accepts a state on any devices."
    shardings = placement.state_shardings(state)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, leaf), want in zip(leaves, jax.tree.leaves(shardings), strict=True):
        where = getattr(leaf, "sharding", None)
        if where is None or not leaf.committed or not where.is_equivalent_to(want, leaf.ndim):
            raise ValueError(
                f"state/{path_name(path)} must be on {describe(want)} for placement "
                f"{placement.name!r}, not on {describe(where)}; {hint}"
            )


def evaluated_there(state: PyTree, placement: Any) -> None:
    """Raises ValueError for a leaf that is committed to devices other than the evaluation's."""
    parts = {"params": state.params, "model_state": state.model_state, "rng": state.rng}
    devices = placement.everywhere.device_set
    for name, leaf in named_leaves(parts).items():
        where = getattr(leaf, "sharding", None)
        if where is not None and leaf.committed and where.device_set != devices:
            raise ValueError(
                f"state/{name} is on {describe(where)}, but the evaluation (placement "
                f"{placement.name!r}) runs on {describe(placement.everywhere)}; leave placement= "
                "and devices= out to evaluate a state where it is, or place it by a train step of "
                "that placement: step.place(state)."
            )


def batch_devices(batch: PyTree, placement: Any) -> None:
    """Raises ValueError for a leaf that is committed to devices other than the step's."""
    devices = placement.everywhere.device_set
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        where = getattr(leaf, "sharding", None)
        if where is not None and leaf.committed and where.device_set != devices:
            raise ValueError(
                f"{batch_name(path)} is on {describe(where)}, but the step (placement "
                f"{placement.name!r}) runs on {describe(placement.everywhere)}; pass NumPy arrays "
                "or step.place_batch(batch)."
            )


def describe(sharding: Any) -> str:
    if sharding is None:
        return "the host (a NumPy array)"
    mesh = getattr(sharding, "mesh", None)
    if mesh is not None:
        return f"{len(sharding.device_set)} devices, mesh {dict(mesh.shape)}, {sharding.spec}"
    return f"{len(sharding.device_set)} device(s) {sorted(d.id for d in sharding.device_set)}"
