"""Checks of a train step: its options, batches, losses, updates, and its state."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit._core.run_files import ADDED, ROW
from trainkit._core.validation.kinds import flag, function, mapping, random_key, text
from trainkit._core.validation.trees import leading_size, same_structure
from trainkit._core.validation.values import concrete, integer, number, transformation

PyTree = Any


def options(
    loss_fn: Any,
    tx: Any,
    *,
    microbatches: Any,
    steps_per_call: Any,
    skip_nonfinite: Any,
    norms: Any,
    remat: Any,
    donate: Any,
    schedules: Any,
) -> None:
    """Raises TypeError or ValueError for invalid options of `make_train_step`."""
    loss_function(loss_fn)
    transformation(tx)
    integer("microbatches", microbatches)
    integer("steps_per_call", steps_per_call)
    if donate is not None:
        flag("donate", donate, hint="or give None: in fit, but not by hand")
    if not callable(remat):
        flag("remat", remat, hint="or give a policy of jax.checkpoint_policies")
    for name, value, hint in (
        (
            "skip_nonfinite",
            skip_nonfinite,
            "True, False, or the number of steps in a row that may be skipped",
        ),
        ("norms", norms, "None, True, False, or the interval in steps"),
    ):
        if not isinstance(value, bool | None):
            integer(name, value, least=0, hint=f"give {hint}")
    if schedules is not None:
        mapping("schedules", schedules, "{'learning_rate': schedule}")
        for name, schedule in schedules.items():
            function(f"schedules[{name!r}]", schedule, "of the step", takes=1)


def loss_function(loss_fn: Any) -> None:
    """Raises TypeError unless a value is a loss function."""
    what = "(params, model_state, batch, rng) -> Loss"
    hint = _other_than_a_loss(loss_fn)
    if hint:
        raise TypeError(
            f"loss_fn must be a function {what}, not a {type(loss_fn).__name__}; {hint}."
        )
    function("loss_fn", loss_fn, what, takes=4)


def _other_than_a_loss(value: Any) -> str:
    """What to give in the place of a module, a rule or a step."""
    libraries = {base.__module__.split(".")[1] for base in type(value).__mro__ if _of_flax(base)}
    if libraries & {"linen", "nnx"}:
        library = "linen" if "linen" in libraries else "nnx"
        return f"give trainkit.from_{library}(module, loss)"
    if hasattr(value, "init") and hasattr(value, "update"):
        return "give the loss function first, and then the rule"
    if hasattr(value, "loss_fn"):
        return "give its loss_fn, the model"
    return ""


def _of_flax(kind: type) -> bool:
    return kind.__module__.startswith(("flax.linen.", "flax.nnx."))


def batch(
    batch: PyTree, placement: Any, microbatches: int, steps_per_call: int, processes: int = 1
) -> None:
    """Raises ValueError if leading sizes differ, or do not divide into devices × micro-batches.

    The batch is one process's share of the examples, of `processes` equal shares.
    """
    numeric(batch)
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


def numeric(batch: PyTree) -> None:
    """Raises TypeError for arrays of strings or objects, which no device can store."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        dtype = getattr(leaf, "dtype", None)
        if dtype is not None and getattr(dtype, "kind", "f") in "OSUMm":
            raise TypeError(
                f"{batch_name(path)} must be an array of numbers, not of {dtype}; encode it first, "
                "or remove it from the batch."
            )


def batch_name(path: Any) -> str:
    return f"batch/{path_name(path)}" if path else "batch"


def loss(loss: Any, model_state: PyTree) -> None:
    """Raises TypeError or ValueError for an invalid `Loss` or a changed model-state structure."""
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
        if not _is_real(value):
            raise TypeError(f"the loss's {name} must be a number, not {value!r}; {help_}.")
        if jnp.shape(value) != ():
            raise ValueError(
                f"the loss's {name} has shape {jnp.shape(value)}, but it must be a scalar; sum "
                f"over the examples, do not average; {help_}."
            )
    if concrete(loss.weight) is not None:
        number("the loss's weight", loss.weight, above=0, hint=help_)
    dtype = jnp.asarray(loss.total).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"the loss's total is {dtype}, but it must be floating; {help_}.")
    metrics(loss.metrics)
    if loss.model_state is not None:
        same_structure(model_state, loss.model_state, "model_state", "the loss")


def metrics(given: Any) -> None:
    """Raises TypeError or ValueError unless the metrics of a loss are a dict of scalars."""
    if given is None:
        return
    mapping("the loss's metrics", given, "{'accuracy': (hits, examples)}")
    for name, value in given.items():
        parts = value if isinstance(value, tuple | list) else (value,)
        if not 1 <= len(parts) <= 2 or any(
            not _is_real(part) or jnp.shape(part) != () for part in parts
        ):
            raise ValueError(
                f"the metric {name!r} must be a scalar total or a pair (total, weight) of scalars, "
                f"not {_shown(value)}; of a bool or an array an example give (x.sum(), len(x)), of "
                "one that is no mean let evaluate or a hook make it."
            )


def updates(result: Any, opt_state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
    """What `tx.update` returns, if it is updates of the parameters and a state like the old one.

    Raises:
      TypeError: it is no pair, or an update is no floating number (no complex one, of a complex
        parameter); widths may differ, as of float32 updates of bfloat16 parameters.
      ValueError: the structure or the shapes differ, or dtypes of the state.
    """
    if not (isinstance(result, tuple | list) and len(result) == 2):
        found = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise TypeError(f"tx.update must return a pair (updates, opt_state), not {found}.")
    given, after = result
    same_structure(opt_state, after, "opt_state", "tx.update")
    same_structure(params, given, "updates", "tx.update", dtypes=False)
    leaves = zip(named_leaves(params).items(), jax.tree.leaves(given), strict=True)
    for (name, param), update in leaves:
        own, dtype = param.dtype, jnp.result_type(update)
        kind = jnp.floating if jnp.issubdtype(own, jnp.floating) else jnp.complexfloating
        if not jnp.issubdtype(dtype, kind):
            raise TypeError(
                f"tx.update returns {dtype} for updates/{name}, whose parameter is {own}; it must "
                "return updates of the parameters' kind, such as u.astype(p.dtype)."
            )
    return given, after


def _shown(value: Any) -> str:
    """A value in a message; of an array its shape, also where it is traced."""
    return f"an array of shape {value.shape}" if jnp.shape(value) else repr(value)


def _is_real(value: Any) -> bool:
    """Whether a value is an integer or floating scalar or array; a bool is not."""
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        return concrete(value) is not None
    return any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.integer, jnp.floating))


def metric_name(name: str, taken: Collection[str], by: str = "the loss") -> None:
    if name in taken:
        raise ValueError(f"{by}: the step itself reports {name!r}; give the metric another name.")


def row_names(names: Collection[Any], by: str, taken: Collection[str] = (*ROW, *ADDED)) -> None:
    """Raises TypeError or ValueError for names of metrics or events that the log cannot have."""
    for name in names:
        text("the name of a metric", name, by)
        if not name.isprintable():
            raise ValueError(f"{by}: the name {name!r} must be one line, without tabs.")
        if name in taken:
            raise ValueError(
                f"{by}: {name!r} is a reserved column of the log; give the metric another name."
            )


STATE = ("step", "params", "model_state", "opt_state", "rng", "guard")


def state(value: Any, name: str = "state") -> None:
    """Raises TypeError unless a value is a `TrainState`, ValueError if it was donated."""
    if not all(hasattr(value, field) for field in STATE):
        kind = type(value)
        whose = "" if kind.__module__ in ("builtins", "numpy") else f"{kind.__module__}."
        raise TypeError(
            f"{name} must be a trainkit.TrainState, not {whose}{kind.__name__}; make one with "
            "TrainState.create(params, tx), or model.state(tx, batch)."
        )
    alive(value, name)
    random_key(f"{name}.rng", value.rng, seeds=False)
    if jnp.shape(value.step) != () or not jnp.issubdtype(jnp.result_type(value.step), jnp.integer):
        raise TypeError(f"{name}.step must be an int32 scalar, not {value.step!r}.")


def alive(tree: PyTree, name: str = "state") -> None:
    """Raises ValueError for arrays whose buffers were donated."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and not _is_traced(leaf) and leaf.is_deleted():
            raise ValueError(
                f"{name}/{path_name(path)} has been deleted: fit, a step with donate=True or a "
                f"growth has reused the memory of this {name}. Continue with the state that it "
                "returned, or keep a copy: step.place(state) makes one."
            )


def _is_traced(leaf: Any) -> bool:
    return isinstance(leaf, jax.core.Tracer)


def optimizer_state(like: PyTree, opt_state: PyTree) -> None:
    """Raises ValueError for the state of another gradient transformation."""
    try:
        same_structure(like, opt_state, "opt_state", "tx.init(params)", dtypes=False)
    except ValueError as error:
        raise ValueError(
            f"the state's opt_state must be the result of tx.init(params): {error} Create the "
            "state with the tx of the step."
        ) from None


def described(tree: PyTree) -> str:
    """The leaves of a tree in one line, for messages."""
    shown = [
        f"{name or 'it'}: {getattr(leaf, 'dtype', type(leaf).__name__)}"
        f"{list(getattr(leaf, 'shape', ()))}"
        for name, leaf in named_leaves(tree).items()
    ]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")
