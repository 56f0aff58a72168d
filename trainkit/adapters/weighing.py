"""The loss of a model on a batch, and its metrics: weighted sums over examples or tokens."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core import validation
from trainkit.adapters.labels import marks_of, summed, wide, without_ignored
from trainkit.adapters.targets import Targets, is_classes
from trainkit.adapters.validation import takes_labels, takes_sown
from trainkit.step.loss import Loss
from trainkit.step.precision import at_least_float32

PyTree = Any


def weighted(
    loss: Callable[..., Any],
    outputs: PyTree,
    batch: PyTree,
    targets: Targets,
    sown: PyTree | None = None,
) -> Loss:
    """The `Loss` Σ wᵢ·ℓᵢ, Σ wᵢ over examples or tokens, with the weights of the batch."""
    labels = targets.labels if is_classes(outputs, targets.labels) else None
    losses, metrics = _values_and_metrics(loss, outputs, batch, targets, labels, sown)
    marks = None
    if labels is not None:
        marks = marks_of(labels, outputs.shape[-1], targets.decided)
    told = targets.labels if takes_labels(loss) else batch
    examples = jax.tree.leaves(batch)[0].shape[0]

    def sums(values: Any, name: str) -> tuple[jax.Array, Any]:
        values = _checked(values, name, examples, targets.weights)
        _refuse_axes(values, name, outputs, told, sown)
        return summed(values, targets.weights, marks)

    total, count = sums(losses, "loss")
    found = {name: sums(values, name) for name, values in metrics.items()}
    if labels is not None and "accuracy" not in found:
        found["accuracy"] = sums(_hits(outputs, labels), "accuracy")
    return Loss(total, count, None, found)


def _values_and_metrics(
    loss: Callable[..., Any],
    outputs: PyTree,
    batch: PyTree,
    targets: Targets,
    classes: Any,
    sown: PyTree | None,
) -> tuple[Any, Mapping[str, Any]]:
    """The values and the metrics of a loss; `classes`: the labels, if they are classes."""

    def call(about: PyTree) -> tuple[Any, Mapping[str, Any]]:
        value = loss(outputs, about, sown) if takes_sown(loss) else loss(outputs, about)
        if isinstance(value, tuple) and len(value) != 2:
            raise TypeError(
                f"the loss must return its values, or a pair of these and a dict of metrics, not "
                f"{len(value)} values."
            )
        losses, metrics = value if isinstance(value, tuple) else (value, {})
        validation.mapping("the loss's metrics", metrics, "{'size': values}")
        return losses, metrics

    if not takes_labels(loss):
        return call(batch)
    if classes is None:
        return call(targets.labels)
    losses, metrics = call(without_ignored(classes))
    if jnp.shape(losses)[: classes.ndim] != classes.shape:
        return call(classes)  # the loss sums over positions, and skips labels, by itself
    return losses, metrics


def _checked(values: Any, name: str, examples: int, weights: Mapping[str, Any]) -> jax.Array:
    """Values [B, ...] with at least 32 bits, where weights fit them."""
    if not hasattr(values, "dtype") or jnp.ndim(values) == 0 or values.shape[0] != examples:
        found = f"shape {values.shape}" if hasattr(values, "shape") else f"the value {values!r}"
        raise ValueError(
            f"{name} has {found}; it must be one value per example, "
            f"[{examples}], or per example and position, [{examples}, …]: remove the mean() or "
            "sum(), so that masked and uneven batches can be weighted exactly."
        )
    if name == "loss" and not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"the loss must be floating, not {values.dtype}: it is differentiated.")
    for key, weight in weights.items():
        if jnp.shape(weight) != values.shape[: jnp.ndim(weight)]:
            raise ValueError(
                f"the batch's weight {key!r} has shape {jnp.shape(weight)}, but {name} has shape "
                f"{values.shape}; the weight must have the first axes of the loss. Say what the "
                "weights are in weights=, a key or a function of the batch, or weights=() for none."
            )
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return values.astype(jnp.float32)
    return values.astype(at_least_float32(values.dtype))


def _refuse_axes(values: jax.Array, name: str, outputs: PyTree, told: PyTree, sown: PyTree) -> None:
    """Raises ValueError for an axis that nothing has from which the values were computed.

    Outputs [B, 1] and labels [B] broadcast to [B, B]: every output with every label.
    """
    known = [jnp.shape(leaf) for leaf in jax.tree.leaves((outputs, told, sown))]
    have = collections.Counter(size for shape in known for size in shape[1:])
    more = collections.Counter(size for size in values.shape[1:] if size > 1) - have
    if more:
        first, second = _shapes(outputs), _shapes(told)
        raise ValueError(
            f"{name} has shape {values.shape}, with an axis that neither the outputs {first} nor "
            f"what the loss is given beside them, {second}, have: they broadcast against each "
            "other. Make their shapes equal, as by outputs=lambda outputs: outputs[..., 0]; if "
            "the axis is meant, take the mean over it."
        )


def _shapes(tree: PyTree) -> str:
    return ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def _hits(outputs: jax.Array, labels: Any) -> jax.Array:
    """float32 [...]: 1 where the largest of outputs [..., classes] is at the label, else 0.

    Outputs with a NaN have no largest, and are 0.
    """
    right = (outputs.argmax(-1) == wide(labels)) & ~jnp.isnan(outputs).any(-1)
    return right.astype(jnp.float32)
