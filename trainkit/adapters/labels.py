"""Weights of examples: those of the batch, and 0 for labels that say "ignore this".

An integer label is a class, 0 to K − 1 for outputs [..., K], or `IGNORED`, which has weight 0. A
compiled program cannot raise: any other label, a negative weight or NaN makes the sums NaN, which
stops a run. `refuse_values` names such values if the process can read the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.adapters.targets import Targets, is_classes

PyTree = Any
IGNORED = -100


def marks_of(labels: Any, classes: int, decided: bool = True) -> jax.Array:
    """float32 of the labels' shape: 1 for a class, 0 for `IGNORED`, NaN for any other label.

    Where it is not `decided` that the labels are classes, any other label is 1 too.
    """
    may_ignore, labels = _may_ignore(labels.dtype), wide(labels)
    inside = jnp.ones(labels.shape, jnp.float32)
    wrong = labels >= classes
    if may_ignore:
        inside = jnp.where(labels == IGNORED, jnp.float32(0), inside)
        wrong |= (labels < 0) & (labels != IGNORED)
    return jnp.where(wrong, jnp.float32(jnp.nan), inside) if decided else inside


def wide(labels: Any) -> jax.Array:
    """The labels with at least 32 bits, enough for every class."""
    labels = jnp.asarray(labels)
    return labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels


def without_ignored(labels: Any) -> Any:
    """The labels with class 0 instead of `IGNORED`."""
    if not _may_ignore(labels.dtype):
        return labels
    return jnp.where(labels == IGNORED, jnp.zeros_like(labels), labels)


def summed(
    values: jax.Array, weights: Mapping[str, Any], marks: jax.Array | None
) -> tuple[jax.Array, Any]:
    """(Σ wᵢ·vᵢ, Σ wᵢ) of values [B, ...], w the product of the weights and marks of labels.

    Marks have all axes of the labels. If the values have fewer, because the loss has summed over
    the rest, only invalid labels are taken from the marks.
    """
    if marks is not None and values.shape[: marks.ndim] != marks.shape:
        axes = tuple(range(values.ndim, marks.ndim))
        wrong = jnp.isnan(marks)
        marks = jnp.where(wrong.any(axes), jnp.nan, 1) if axes else None
    if not weights and marks is None:
        return values.sum(), values.size
    whole = jnp.ones(values.shape, values.dtype)
    for each in weights.values():
        weight = jnp.asarray(each).astype(values.dtype)
        whole = whole * _along(jnp.where(weight < 0, jnp.nan, weight), values)
    if marks is not None:
        whole = jnp.where(whole == 0, 0, whole * _along(marks.astype(values.dtype), values))
    # An example of weight 0 is padding: its loss contributes nothing, even if it is NaN.
    return jnp.where(whole == 0, 0, values * whole).sum(), whole.sum()


def no_classes(outputs: Any, targets: Targets) -> Exception | None:
    """What is wrong with labels that are to be classes for outputs [..., K], K > 1, or `None`."""
    labels = targets.labels
    if not (hasattr(outputs, "ndim") and hasattr(labels, "dtype")) or not outputs.ndim:
        return None
    name, shape = f"batch/{targets.name}", outputs.shape
    if is_classes(outputs, labels) or shape[-1] == 1:
        return None
    if labels.shape == shape[:-1]:
        return TypeError(
            f"{name} must be integers, one of the {shape[-1]} classes for outputs of shape "
            f"{shape}, not {labels.dtype}; use {name}.astype(int32), or another loss."
        )
    return ValueError(
        f"{name} has shape {labels.shape}; it must be {shape[:-1]}, a class for each of the "
        f"outputs of shape {shape}. For one-hot labels, take the argmax."
    )


def refuse_values(targets: Targets, outputs: Any, what: str = "batch") -> None:
    """Raises an error for invalid labels or weights in arrays that this process can read.

    Args:
      targets: of a batch or a whole data set.
      outputs: the shapes of the model's outputs for it, [..., classes].
      what: the name of what the targets are in.

    Raises:
      ValueError, TypeError: names the array, its first invalid value and its position.
    """
    weights = {name: np.asarray(w) for name, w in targets.weights.items() if _is_readable(w)}
    for name, weight in weights.items():
        _refuse_weights(weight, f"{what}/{name}")
    if not targets.decided or not _is_readable(targets.labels):
        return
    if not is_classes(outputs, targets.labels):
        return
    found, classes = np.asarray(targets.labels), outputs.shape[-1]
    wrong = ((found < 0) & (found != IGNORED)) | (found >= classes)
    for weight in weights.values():
        counts = weight.reshape(weight.shape + (1,) * (found.ndim - weight.ndim))
        wrong &= np.broadcast_to(counts != 0, found.shape)
    if wrong.any():
        at = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise ValueError(
            f"{what}/{targets.name} must be a class from 0 to {classes - 1}, or "
            f"{IGNORED} to ignore it, not {found[at]} (example {at[0]}); the outputs "
            f"have {classes} classes. Give it a weight of 0, or use other labels; "
            "numbers that are no classes must be floating."
        )


def _refuse_weights(weight: np.ndarray, name: str) -> None:
    if weight.dtype.kind not in "biuf" and not jnp.issubdtype(weight.dtype, jnp.floating):
        raise TypeError(f"{name} must be an array of real numbers or bools, not of {weight.dtype}.")
    wrong = ~np.isfinite(weight.astype(np.float64)) | (weight < 0)
    if wrong.any():
        at = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise ValueError(
            f"{name} must be finite and at least 0, not {weight[at]} (at {list(map(int, at))}); a "
            "weight of 0 ignores an example."
        )
    if not weight.any():
        raise ValueError(
            f"{name} must be above 0 somewhere, but every example has weight 0: nothing is learned "
            "from them."
        )


def _is_readable(array: Any) -> bool:
    """Whether this process can read the values of an array."""
    return isinstance(array, np.ndarray | np.generic) or (
        isinstance(array, jax.Array)
        and not isinstance(array, jax.core.Tracer)
        and array.is_fully_addressable
    )


def _may_ignore(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.signedinteger)


def _along(weight: jax.Array, values: jax.Array) -> jax.Array:
    return weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
