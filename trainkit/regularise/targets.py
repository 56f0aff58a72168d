"""Targets that teach more than labels: smoothed, mixed, or given by another model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core import validation
from trainkit._core.paths import named_leaves

PyTree = Any


def label_smoothing(targets: jax.Array, alpha: float, classes: int | None = None) -> jax.Array:
    """Targets (…, K) mixed with the uniform distribution: (1 − α) y + α/K.

    `targets` are probabilities (one-hot, say), or integer labels where `classes` = K is given.

    >>> import jax.numpy as jnp
    >>> label_smoothing(jnp.array([1]), 0.2, classes=2).round(3).tolist()
    [[0.10000000149011612, 0.9000000357627869]]

    Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016.
    """
    validation.number("alpha", alpha, "label_smoothing", least=0, most=1)
    if classes is not None:
        validation.integer("classes", classes, "label_smoothing")
    if jnp.issubdtype(targets.dtype, jnp.integer):
        if classes is None:
            raise ValueError("label_smoothing: integer labels need classes=K.")
        inside = _classes("targets", targets, classes, "label_smoothing")
        targets = jax.nn.one_hot(targets, classes, dtype=jnp.float32)
        targets = jnp.where(inside[..., None], targets, jnp.nan)
    return (1 - alpha) * targets + alpha / targets.shape[-1]


def mixup(
    key: jax.Array, inputs: PyTree, targets: jax.Array, alpha: float = 0.2
) -> tuple[PyTree, jax.Array]:
    """Convex mixtures of pairs of examples: λ x + (1 − λ) x', λ ~ Beta(α, α), one λ an example.

    `inputs` is an array or tree of arrays (B, …) and `targets` probabilities (B, …, K); both are
    mixed with the same random partner and the same λ ≥ ½ (so that each example stays the main part
    of its mixture; the distribution of pairs is the same). Integer inputs (images of bytes) become
    float32. `alpha=0` mixes nothing.

    >>> import jax, jax.numpy as jnp
    >>> x, y = mixup(jax.random.key(0), jnp.arange(4.0)[:, None], jnp.eye(4))
    >>> x.shape, y.sum(axis=1).round(4).tolist()
    ((4, 1), [1.0, 1.0, 1.0, 1.0])

    Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
    """
    validation.random_key("key", key, "mixup", seeds=False)
    validation.number("alpha", alpha, "mixup", least=0)
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ValueError("mixup: targets must be probabilities; give one_hot(labels, K).")
    size = targets.shape[0]
    for name, leaf in named_leaves(inputs).items():
        if leaf.shape[:1] != (size,):
            raise ValueError(
                f"mixup: the input {name!r} has shape {leaf.shape}, and there are {size} targets."
            )
    wide = lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)
    inputs = jax.tree.map(wide, inputs)
    if not isinstance(alpha, jax.core.Tracer) and alpha == 0:
        return inputs, targets
    one, two = jax.random.split(key)
    weight = jax.random.beta(one, alpha, alpha, (size,))
    weight = jnp.maximum(weight, 1 - weight)
    partner = jax.random.permutation(two, size)

    def mix(x: jax.Array) -> jax.Array:
        w = weight.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
        return w * x + (1 - w) * x[partner]

    return jax.tree.map(mix, inputs), mix(targets)


def distillation_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array | None = None,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
) -> jax.Array:
    """Per example (…,): α T² KL(softmax(teacher/T) ‖ softmax(student/T)) + (1 − α) CE(labels).

    `student` and `teacher` are logits (…, K); no gradient reaches the teacher. T² keeps the
    gradient's scale as T grows. Without integer `labels` (…,) it is the first term
    alone, unweighted.

    >>> import jax.numpy as jnp
    >>> logits = jnp.array([[2.0, 0.0]])
    >>> distillation_loss(logits, logits).tolist()
    [0.0]

    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
    """
    validation.number("temperature", temperature, "distillation_loss", above=0)
    if student.shape != teacher.shape:
        raise ValueError(
            f"distillation_loss: student logits {student.shape} and teacher logits "
            f"{teacher.shape} must have one shape."
        )
    validation.number("alpha", alpha, "distillation_loss", least=0, most=1)
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    # p log p is 0 at p = 0, where its pieces are 0 and −∞.
    p = jnp.exp(log_p)
    transfer = temperature**2 * jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0), axis=-1)
    if labels is None:
        return transfer
    inside = _classes("labels", labels, student.shape[-1], "distillation_loss")
    labels = jnp.where(inside, labels, 0)
    hard = -jnp.take_along_axis(jax.nn.log_softmax(student), labels[..., None], -1)[..., 0]
    return alpha * transfer + (1 - alpha) * jnp.where(inside, hard, jnp.nan)


def _classes(name: str, labels: jax.Array, classes: int, of: str) -> jax.Array:
    """Which labels are classes: all, of those at hand; under `jit` the others become NaN."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{of}: {name} must be integers, not {labels.dtype}; they count classes.")
    inside = (labels >= 0) & (labels < classes)
    if not isinstance(labels, jax.core.Tracer) and not np.asarray(inside).all():
        wrong = np.asarray(labels)[~np.asarray(inside)]
        raise ValueError(
            f"{of}: {name} must be classes from 0 to {classes - 1}, not {wrong.flat[0]}; leave out "
            "examples by a weight of 0."
        )
    return jnp.asarray(inside)
