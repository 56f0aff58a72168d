"""Weights of examples: those of the batch, and 0 for labels that say "ignore this".

An integer label is a class, 0 to K − 1 for outputs [..., K], or `IGNORED`, which has weight 0. A
compiled program cannot raise: any other label, a negative weight or NaN makes the sums NaN, which
stops a run. `refuse_values` names such values if the process can read the arrays.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.adapters.batches import LABELS, WEIGHTS, labels_of, name_of, weight_of

PyTree = Any
IGNORED = -100


def class_labels(outputs: Any, batch: PyTree) -> Any:
    """The integer labels [...] for outputs [..., K], K > 1; `None` if there are none."""
    labels = labels_of(batch, required=False)
    if not (hasattr(outputs, "ndim") and hasattr(labels, "dtype")):
        return None
    if not jnp.issubdtype(labels.dtype, jnp.integer) or outputs.shape[:-1] != labels.shape:
        return None
    return labels if outputs.ndim and outputs.shape[-1] > 1 else None


def marks_of(labels: Any, classes: int) -> jax.Array:
    """float32 of the labels' shape: 1 for a class, 0 for `IGNORED`, NaN for any other label."""
    may_ignore, labels = _may_ignore(labels.dtype), wide(labels)
    inside = jnp.ones(labels.shape, jnp.float32)
    if may_ignore:
        inside = jnp.where(labels == IGNORED, jnp.float32(0), inside)
        wrong = (labels < 0) & (labels != IGNORED) | (labels >= classes)
    else:
        wrong = labels >= classes
    return jnp.where(wrong, jnp.float32(jnp.nan), inside)


def wide(labels: Any) -> jax.Array:
    """The labels with at least 32 bits, enough for every class."""
    labels = jnp.asarray(labels)
    return labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels


def without_ignored(labels: Any) -> Any:
    """The labels with class 0 instead of `IGNORED`."""
    if not _may_ignore(labels.dtype):
        return labels
    return jnp.where(labels == IGNORED, jnp.zeros_like(labels), labels)


def summed(values: jax.Array, batch: PyTree, marks: jax.Array | None) -> tuple[jax.Array, Any]:
    """(Σ wᵢ·vᵢ, Σ wᵢ) of values [B, ...], with the batch's weights and the marks of its labels.

    Marks have all axes of the labels. If the values have fewer, because the loss has summed over
    the rest, only invalid labels are taken from the marks.
    """
    weight = weight_of(batch)
    if marks is not None and values.shape[: marks.ndim] != marks.shape:
        axes = tuple(range(values.ndim, marks.ndim))
        wrong = jnp.isnan(marks)
        marks = jnp.where(wrong.any(axes), jnp.nan, 1) if axes else None
    if weight is None and marks is None:
        return values.sum(), values.size
    whole = jnp.ones(values.shape, values.dtype)
    if weight is not None:
        weight = jnp.asarray(weight).astype(values.dtype)
        whole = whole * _along(jnp.where(weight < 0, jnp.nan, weight), values)
    if marks is not None:
        whole = jnp.where(whole == 0, 0, whole * _along(marks.astype(values.dtype), values))
    # An example of weight 0 is padding: its loss contributes nothing, even if it is NaN.
    return jnp.where(whole == 0, 0, values * whole).sum(), whole.sum()


def refuse_labels(outputs: Any, batch: PyTree) -> None:
    """Raises TypeError or ValueError for labels whose dtype or shape cannot be classes."""
    labels = labels_of(batch, required=False)
    if not (hasattr(outputs, "ndim") and hasattr(labels, "dtype")) or not outputs.ndim:
        return
    name, shape = f"batch/{name_of(batch, LABELS, 1)}", outputs.shape
    if labels.shape == shape[:-1] and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"{name} must be integers, one of the {shape[-1]} classes for outputs of shape "
            f"{shape}, not {labels.dtype}; use {name}.astype(int32), or another loss."
        )
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape != shape[:-1]:
        raise ValueError(
            f"{name} has shape {labels.shape}; it must be {shape[:-1]}, a class for each of the "
            f"outputs of shape {shape}. For one-hot labels, take the argmax."
        )


def refuse_values(batch: PyTree, outputs: Any, what: str = "batch") -> None:
    """Raises an error for invalid labels or weights in arrays that this process can read.

    Args:
      batch: any number of examples, also a whole data set.
      outputs: the shapes of the model's outputs for a batch, [..., classes].

    Raises:
      ValueError, TypeError: names the array, its first invalid value and its position.
    """
    weight = weight_of(batch)
    if _is_readable(weight):
        _refuse_weights(np.asarray(weight), f"{what}/{name_of(batch, WEIGHTS, 2)}")
    labels = labels_of(batch, required=False)
    if not _is_readable(labels) or class_labels(outputs, _label_shapes(batch, outputs)) is None:
        return
    found, classes = np.asarray(labels), outputs.shape[-1]
    wrong = ((found < 0) & (found != IGNORED)) | (found >= classes)
    if _is_readable(weight):
        counts = np.asarray(weight)
        counts = counts.reshape(counts.shape + (1,) * (found.ndim - counts.ndim))
        wrong &= np.broadcast_to(counts != 0, found.shape)
    if wrong.any():
        at = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise ValueError(
            f"{what}/{name_of(batch, LABELS, 1)} must be a class from 0 to {classes - 1}, or "
            f"{IGNORED} to ignore it, not {found[at]} (example {at[0]}); the outputs "
            f"have {classes} classes: {outputs.shape}. Give it a weight of 0, or use other labels."
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


def _label_shapes(batch: PyTree, outputs: Any) -> PyTree:
    """The shape of labels with the outputs' number of examples; a data set has more."""
    labels = labels_of(batch, required=False)
    shape = (outputs.shape[:1] if hasattr(outputs, "shape") else ()) + labels.shape[1:]
    return {LABELS[0]: jax.ShapeDtypeStruct(shape, labels.dtype)}


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
