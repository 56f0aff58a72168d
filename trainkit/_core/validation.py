"""Refusals: what was given, what was expected, and what mends it, before anything compiles."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def name_of(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype that an array has inside a jitted function."""
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))


def options(
    loss_fn: Any, tx: Any, microbatches: Any, steps_per_call: Any, skip: Any, norms: Any
) -> None:
    if not callable(loss_fn):
        raise TypeError(
            f"loss_fn must be a function (params, model_state, batch, rng) -> Loss, not "
            f"{type(loss_fn).__name__}."
        )
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise TypeError(
            f"tx must be a gradient transformation with init and update, such as "
            f"optax.adam(1e-3), not {type(tx).__name__}."
        )
    for name, value in (("microbatches", microbatches), ("steps_per_call", steps_per_call)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, not {value!r}.")
    if not isinstance(skip, int) or skip < 0:
        raise ValueError(
            f"skip_nonfinite must be True, False or the number of steps in a row that may be "
            f"left out, not {skip!r}."
        )
    if not isinstance(norms, int) or norms < 0:
        raise ValueError(f"norms must be True, False or a number of steps, not {norms!r}.")


def near(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'jit'?` where something near is known, else nothing."""
    found = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def no_more_options(unknown: dict[str, Any], function: Callable[..., Any]) -> None:
    """Raises TypeError for an option that a function does not have, naming the near one."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for name in unknown:
        raise TypeError(
            f"{function.__name__} has no option {name!r}{near(name, known)} "
            f"Known: {', '.join(known)}."
        )


def batch(batch: PyTree, placement: Any, microbatches: int, steps_per_call: int) -> None:
    """Every leaf has the same leading sizes, which divide by steps, devices and micro-batches."""
    axis = 0 if steps_per_call == 1 else 1
    if axis:
        for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
            if jnp.ndim(leaf) and leaf.shape[0] != steps_per_call:
                raise ValueError(
                    f"{batch_name(path)} has shape {leaf.shape}; with steps_per_call="
                    f"{steps_per_call} every leaf must be [{steps_per_call}, examples, …]: stack "
                    f"{steps_per_call} batches along a new first axis."
                )
    size = examples(batch, axis)
    least = placement.parts * microbatches
    if size == 0 or size % least:
        near = max(least, size // least * least)
        raise ValueError(
            f"a batch of {size} examples does not divide into {placement.parts} devices × "
            f"{microbatches} microbatches = {least} parts (placement {placement.name!r}). Use a "
            f"batch of {near} or {near + least}, or pad it and give the padding the weight 0."
        )


def batch_name(path: Any) -> str:
    return f"batch/{name_of(path)}" if path else "batch"


def examples(batch: PyTree, axis: int) -> int:
    """How many examples a batch has: the size that all its leaves have on `axis`."""
    leaves = jax.tree_util.tree_flatten_with_path(batch)[0]
    if not leaves:
        raise ValueError("the batch has no arrays in it.")
    sizes: dict[str, int] = {}
    for path, leaf in leaves:
        name = batch_name(path)
        shape = getattr(leaf, "shape", None)
        if shape is None:
            raise TypeError(f"{name} is of type {type(leaf).__name__}, but must be an array.")
        if len(shape) <= axis:
            raise ValueError(
                f"{name} has shape {shape}; its axis {axis} must be that of the examples."
            )
        sizes[name] = shape[axis]
    counts = list(sizes.values())
    usual = max(set(counts), key=counts.count)
    for name, size in sizes.items():
        if size != usual:
            other = next(n for n, s in sizes.items() if s == usual)
            raise ValueError(
                f"{name} has {size} examples on its axis {axis}, but {other} has {usual}; all "
                "leaves of a batch must have the same number."
            )
    return usual


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


def same_structure(old: PyTree, new: PyTree, what: str, by: str, dtypes: bool = True) -> None:
    """Raises ValueError naming the first leaf whose path, shape or dtype is another."""
    was = {name_of(p): x for p, x in jax.tree_util.tree_flatten_with_path(old)[0]}
    now = {name_of(p): x for p, x in jax.tree_util.tree_flatten_with_path(new)[0]}
    fix = f"{by} must give {what} back with the structure, shapes and dtypes that it had."
    for name in was.keys() - now.keys():
        raise ValueError(f"{what}/{name} is missing from what {by} returned; {fix}")
    for name in now.keys() - was.keys():
        raise ValueError(f"{what}/{name} is new in what {by} returned; {fix}")
    before: Any = jax.tree.structure(old)
    if before != jax.tree.structure(new):
        raise ValueError(
            f"{by} changes the structure of {what} from {jax.tree.structure(old)} to "
            f"{jax.tree.structure(new)}; {fix}"
        )
    for name, x in was.items():
        y = now[name]
        if jnp.shape(x) != jnp.shape(y):
            raise ValueError(
                f"{by} changes {what}/{name} from shape {jnp.shape(x)} to {jnp.shape(y)}; {fix}"
            )
        a, b = (getattr(v, "dtype", None) or jnp.asarray(v).dtype for v in (x, y))
        if dtypes and a != b:
            raise ValueError(
                f"{by} changes {what}/{name} from {a} to {b}; {fix} Cast it with .astype({a})."
            )


def metric_name(name: str, taken: dict[str, Any]) -> None:
    if name in taken:
        raise ValueError(
            f"the loss reports a metric {name!r}, which is the step's own; give it another name."
        )


def is_fresh(state: PyTree) -> bool:
    """Whether no leaf has been put anywhere on purpose, so that the step may place it."""
    return all(not getattr(x, "committed", False) for x in jax.tree.leaves(state))


def placed(state: PyTree, placement: Any) -> None:
    """Every leaf lies where the placement wants it."""
    hint = "call state = step.place(state) first; it takes a state from anywhere."
    shardings = placement.state_shardings(state)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    for (path, leaf), want in zip(leaves, jax.tree.leaves(shardings), strict=True):
        where = getattr(leaf, "sharding", None)
        if where is None or not leaf.committed or not where.is_equivalent_to(want, leaf.ndim):
            raise ValueError(
                f"state/{name_of(path)} is not where placement {placement.name!r} wants it: it is "
                f"on {describe(where)}, but should be on {describe(want)}; {hint}"
            )


def batch_devices(batch: PyTree, placement: Any) -> None:
    """No leaf of a batch has been put on other devices than the step's."""
    devices = placement.everywhere.device_set
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
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
