"""Which examples of a batch count: by their weights, and by labels that say "leave this out".

An integer label is one of the classes, 0 to K − 1 for outputs [..., K], or `IGNORED`, which weighs
0. In a compiled program nothing can be raised: any other label, a negative weight and NaN make the
sums NaN, which a run stops at. Where the arrays are at hand, `refuse_values` names them.
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
    """The labels [...] of outputs [..., K], K > 1, where they are integers; else `None`."""
    labels = labels_of(batch, required=False)
    if not (hasattr(outputs, "ndim") and hasattr(labels, "dtype")):
        return None
    if not jnp.issubdtype(labels.dtype, jnp.integer) or outputs.shape[:-1] != labels.shape:
        return None
    return labels if outputs.ndim and outputs.shape[-1] > 1 else None


def marks_of(labels: Any, classes: int) -> jax.Array:
    """1 for each label that is a class, 0 for `IGNORED`, NaN for every other."""
    may_ignore, labels = _may_ignore(labels.dtype), wide(labels)
    inside = jnp.ones(labels.shape, jnp.float32)
    if may_ignore:
        inside = jnp.where(labels == IGNORED, jnp.float32(0), inside)
        wrong = (labels < 0) & (labels != IGNORED) | (labels >= classes)
    else:
        wrong = labels >= classes
    return jnp.where(wrong, jnp.float32(jnp.nan), inside)


def wide(labels: Any) -> jax.Array:
    """The labels in 32 bits at least, in which every class can be written."""
    labels = jnp.asarray(labels)
    return labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels


def without_ignored(labels: Any) -> Any:
    """The labels with class 0 in the place of those that weigh nothing."""
    if not _may_ignore(labels.dtype):
        return labels
    return jnp.where(labels == IGNORED, jnp.zeros_like(labels), labels)


def summed(values: jax.Array, batch: PyTree, marks: jax.Array | None) -> tuple[jax.Array, Any]:
    """Σ wᵢ·vᵢ and Σ wᵢ of values [B, ...], with the batch's weights and the marks of its labels.

    Marks have all the axes of labels; of values with fewer, which the loss has added up over the
    rest by itself, only whether a label is wrong is taken over.
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
    # An example of weight 0 is padding: whatever its loss is, NaN too, it counts for nothing.
    return jnp.where(whole == 0, 0, values * whole).sum(), whole.sum()


def refuse_labels(outputs: Any, batch: PyTree) -> None:
    """Names labels of a kind that no loss of classes takes, of one that could not be computed."""
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
            f"outputs of shape {shape}. Of one-hot labels take the argmax."
        )


def refuse_values(batch: PyTree, outputs: Any, what: str = "batch") -> None:
    """Names labels and weights that are not what they may be, of arrays at hand.

    Args:
      batch: of any number of examples: a whole data set too.
      outputs: the shape of the model's outputs for a batch, whose last axis is the classes.

    Raises:
      ValueError, TypeError: the array is named, with its first wrong value and where that is.
    """
    weight = weight_of(batch)
    if _at_hand(weight):
        _refuse_weights(np.asarray(weight), f"{what}/{name_of(batch, WEIGHTS, 2)}")
    labels = labels_of(batch, required=False)
    if not _at_hand(labels) or class_labels(outputs, _with_sizes(batch, outputs)) is None:
        return
    found, classes = np.asarray(labels), outputs.shape[-1]
    wrong = ((found < 0) & (found != IGNORED)) | (found >= classes)
    if _at_hand(weight):
        counts = np.asarray(weight)
        counts = counts.reshape(counts.shape + (1,) * (found.ndim - counts.ndim))
        wrong &= np.broadcast_to(counts != 0, found.shape)
    if wrong.any():
        at = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise ValueError(
            f"{what}/{name_of(batch, LABELS, 1)} must be a class from 0 to {classes - 1}, or "
            f"{IGNORED} for what is to be left out, not {found[at]} (example {at[0]}); the outputs "
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
            "weight of 0 leaves an example out."
        )
    if not weight.any():
        raise ValueError(
            f"{name} must be above 0 somewhere, but every example weighs 0: nothing is learned "
            "from these."
        )


def _with_sizes(batch: PyTree, outputs: Any) -> PyTree:
    """Labels with as many examples as the outputs have: of a data set there are more."""
    labels = labels_of(batch, required=False)
    shape = (outputs.shape[:1] if hasattr(outputs, "shape") else ()) + labels.shape[1:]
    return {LABELS[0]: jax.ShapeDtypeStruct(shape, labels.dtype)}


def _at_hand(array: Any) -> bool:
    """Whether there are values to be looked at on the host, without waiting for a device."""
    return isinstance(array, np.ndarray | np.generic) or (
        isinstance(array, jax.Array)
        and not isinstance(array, jax.core.Tracer)
        and array.is_fully_addressable
    )


def _may_ignore(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.signedinteger)


def _along(weight: jax.Array, values: jax.Array) -> jax.Array:
    return weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
