"""What a train step refuses: its options, batches, losses, and states that lie elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import path_name
from trainkit._core.validation.trees import leading_size, same_structure
from trainkit._core.validation.values import function, integer, transformation

PyTree = Any


def options(
    loss_fn: Any, tx: Any, microbatches: Any, steps_per_call: Any, skip: Any, norms: Any
) -> None:
    """Refuses options of `make_train_step` that are of another kind or out of range."""
    function("loss_fn", loss_fn, "(params, model_state, batch, rng) -> Loss")
    transformation(tx)
    integer("microbatches", microbatches)
    integer("steps_per_call", steps_per_call)
    for name, value, hint in (
        ("skip_nonfinite", skip, "True, False or how many steps in a row may be left out"),
        ("norms", norms, "True, False or every how many steps they are computed"),
    ):
        if not isinstance(value, bool):
            integer(name, value, least=0, hint=f"give {hint}")


def batch(
    batch: PyTree, placement: Any, microbatches: int, steps_per_call: int, processes: int = 1
) -> None:
    """Every leaf has the same leading sizes, which divide by steps, devices and micro-batches.

    It is that of one of `processes`, each of which has its share of the examples.
    """
    axis = 0 if steps_per_call == 1 else 1
    if axis:
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            if jnp.ndim(leaf) and leaf.shape[0] != steps_per_call:
                raise ValueError(
                    f"{batch_name(path)} has shape {leaf.shape}; with steps_per_call="
                    f"{steps_per_call} every leaf must be [{steps_per_call}, examples, …]: stack "
                    f"{steps_per_call} batches along a new first axis."
                )
    size = leading_size(batch, "batch", axis) * processes
    least = placement.parts * microbatches
    if size == 0 or size % least:
        near = max(least, size // least * least)
        raise ValueError(
            f"a batch of {size} examples does not divide into {placement.parts} devices × "
            f"{microbatches} microbatches = {least} parts (placement {placement.name!r}). Use a "
            f"batch of {near} or {near + least}, or pad it and give the padding the weight 0."
        )


def batch_name(path: Any) -> str:
    return f"batch/{path_name(path)}" if path else "batch"


def loss(loss: Any, model_state: PyTree) -> None:
    """A scalar total, a scalar weight, and a model state of the structure that came in."""
    help_ = (
        "loss_fn must return trainkit.Loss(total, weight, model_state, metrics), where total is "
        "the sum of the examples' losses and weight the number (or weight) of the examples"
    )
    if not (hasattr(loss, "total") and hasattr(loss, "weight")):
        kind = f"shape {jnp.shape(loss)}" if hasattr(loss, "dtype") else type(loss).__name__
        raise TypeError(f"the loss has no weight: loss_fn returned {kind}; {help_}.")
    for name in ("total", "weight"):
        value = getattr(loss, name)
        if value is None:
            raise TypeError(f"the loss has no {name}; {help_}.")
        if jnp.shape(value) != ():
            raise ValueError(
                f"the loss's {name} has shape {jnp.shape(value)}, but it must be a scalar; sum "
                f"over the examples (not mean); {help_}."
            )
    dtype = jnp.asarray(loss.total).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"the loss's total is {dtype}, but it must be floating; {help_}.")
    for name, value in (loss.metrics or {}).items():
        parts = value if isinstance(value, tuple | list) else (value,)
        if len(parts) > 2 or any(jnp.shape(part) != () for part in parts):
            raise ValueError(
                f"the metric {name!r} must be a scalar total or a pair (total, weight) of scalars."
            )
    if loss.model_state is not None:
        same_structure(model_state, loss.model_state, "model_state", "the loss")


def metric_name(name: str, taken: Collection[str], by: str = "the loss") -> None:
    if name in taken:
        raise ValueError(
            f"{by}: {name!r} is what the step itself reports; give the metric another name."
        )


def is_fresh(state: PyTree) -> bool:
    """Whether no leaf has been put anywhere on purpose, so that the step may place it."""
    return all(not getattr(x, "committed", False) for x in jax.tree.leaves(state))


def placed(state: PyTree, placement: Any) -> None:
    """Every leaf lies where the placement wants it."""
    mend = "call state = step.place(state) first; it takes a state from anywhere."
    shardings = placement.state_shardings(state)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, leaf), want in zip(leaves, jax.tree.leaves(shardings), strict=True):
        where = getattr(leaf, "sharding", None)
        if where is None or not leaf.committed or not where.is_equivalent_to(want, leaf.ndim):
            raise ValueError(
                f"state/{path_name(path)} must be on {describe(want)}, where placement "
                f"{placement.name!r} wants it, not on {describe(where)}; {mend}"
            )


def batch_devices(batch: PyTree, placement: Any) -> None:
    """No leaf of a batch has been put on other devices than the step's."""
    devices = placement.everywhere.device_set
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        where = getattr(leaf, "sharding", None)
        if where is not None and leaf.committed and where.device_set != devices:
            raise ValueError(
                f"{batch_name(path)} is on {describe(where)}, but the step (placement "
                f"{placement.name!r}) runs on {describe(placement.everywhere)}; give NumPy arrays "
                "or step.place_batch(batch)."
            )


def describe(sharding: Any) -> str:
    if sharding is None:
        return "the host (a NumPy array)"
    mesh = getattr(sharding, "mesh", None)
    if mesh is not None:
        return f"{len(sharding.device_set)} devices, mesh {dict(mesh.shape)}, {sharding.spec}"
    return f"{len(sharding.device_set)} device(s) {sorted(d.id for d in sharding.device_set)}"
