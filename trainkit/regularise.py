"""Regularisation and knowledge transfer: small pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import checks
from trainkit.transforms.clipping import safe_norm

PyTree = Any


def label_smoothing(targets: jax.Array, alpha: float, classes: int | None = None) -> jax.Array:
    """Targets (…, K) mixed with the uniform distribution: (1 − α) y + α/K.

    `targets` are probabilities (one-hot, say), or integer labels where `classes` = K is given.

    >>> import jax.numpy as jnp
    >>> label_smoothing(jnp.array([1]), 0.2, classes=2).round(3).tolist()
    [[0.10000000149011612, 0.9000000357627869]]

    Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016.
    """
    if not isinstance(alpha, jax.core.Tracer) and not 0 <= alpha <= 1:
        raise ValueError(f"label_smoothing: alpha must be in [0, 1], got {alpha}.")
    if jnp.issubdtype(targets.dtype, jnp.integer):
        if classes is None:
            raise ValueError("label_smoothing: integer labels need classes=K.")
        targets = jax.nn.one_hot(targets, classes, dtype=jnp.float32)
    return (1 - alpha) * targets + alpha / targets.shape[-1]


def mixup(
    key: jax.Array, inputs: PyTree, targets: jax.Array, alpha: float = 0.2
) -> tuple[PyTree, jax.Array]:
    """Convex mixtures of pairs of examples: λ x + (1 − λ) x', λ ~ Beta(α, α), one λ an example.

    `inputs` is an array or tree of arrays (B, …) and `targets` probabilities (B, …, K); both are
    mixed with the same random partner and the same λ ≥ ½ (so that each example stays the main part
    of its mixture; the distribution of pairs is the same). `alpha=0` mixes nothing.

    >>> import jax, jax.numpy as jnp
    >>> x, y = mixup(jax.random.key(0), jnp.arange(4.0)[:, None], jnp.eye(4))
    >>> x.shape, y.sum(axis=1).round(4).tolist()
    ((4, 1), [1.0, 1.0, 1.0, 1.0])

    Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
    """
    checks.rate("alpha", alpha, "mixup")
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ValueError("mixup: targets must be probabilities; give one_hot(labels, K).")
    size = targets.shape[0]
    for path, leaf in jax.tree_util.tree_flatten_with_path(inputs)[0]:
        if leaf.shape[:1] != (size,):
            raise ValueError(
                f"mixup: the input {checks.name_of(path)!r} has shape {leaf.shape}, and there are "
                f"{size} targets."
            )
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
    checks.positive("temperature", temperature, "distillation_loss")
    if student.shape != teacher.shape:
        raise ValueError(
            f"distillation_loss: student logits {student.shape} and teacher logits "
            f"{teacher.shape} must have one shape."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"distillation_loss: alpha must be in [0, 1], got {alpha}.")
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    # p log p is 0 at p = 0, where its pieces are 0 and −∞.
    p = jnp.exp(log_p)
    transfer = temperature**2 * jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0), axis=-1)
    if labels is None:
        return transfer
    hard = -jnp.take_along_axis(jax.nn.log_softmax(student), labels[..., None], -1)[..., 0]
    return alpha * transfer + (1 - alpha) * hard


def sparsity_schedule(final: float, *, begin: int = 0, steps: int) -> Callable[[Any], jax.Array]:
    """The pruned fraction at each step: s (1 − (1 − x)³), x = (t − begin)/steps within [0, 1].

    >>> s = sparsity_schedule(0.8, begin=10, steps=10)
    >>> [round(float(s(t)), 3) for t in (0, 10, 15, 20, 99)]
    [0.0, 0.0, 0.7, 0.8, 0.8]

    Zhu and Gupta, To prune, or not to prune, 2018.
    """
    from trainkit.schedules import polynomial

    if not 0 <= final < 1:
        raise ValueError(f"sparsity_schedule: final must be in [0, 1), got {final}.")
    left = polynomial(1.0, 0.0, steps, power=3.0, begin=begin)
    return lambda step: final * (1 - left(step))


def magnitude_masks(
    params: PyTree, sparsity: Any, *, mask: Callable[[PyTree], PyTree] | None = None
) -> PyTree:
    """Boolean masks that keep the largest weights of each leaf and drop the fraction `sparsity`.

    `sparsity` may be traced, a value of `sparsity_schedule` for example. `mask` says which leaves
    are pruned (by default those of two axes or more); of the others all is kept. Ties are broken by
    position, so that exactly round(sparsity · size) entries are dropped.

    >>> import jax.numpy as jnp
    >>> magnitude_masks({"w": jnp.array([[1.0, -3.0], [0.5, 2.0]])}, 0.5)["w"].tolist()
    [[False, True], [False, True]]
    """
    if not isinstance(sparsity, jax.core.Tracer) and not 0 <= float(sparsity) <= 1:
        raise ValueError(f"magnitude_masks: sparsity must be in [0, 1], got {sparsity}.")
    chosen = mask(params) if mask else jax.tree.map(lambda p: p.ndim >= 2, params)

    def one(p: jax.Array, prune: bool) -> jax.Array:
        if not prune:
            return jnp.ones(p.shape, jnp.bool)
        rank = jnp.argsort(jnp.argsort(jnp.abs(p).ravel()))
        dropped = jnp.round(jnp.asarray(sparsity).astype(jnp.float32) * p.size)
        return (rank >= dropped.astype(rank.dtype)).reshape(p.shape)

    return jax.tree.map(one, params, chosen)


def apply_masks(params: PyTree, masks: PyTree) -> PyTree:
    """The parameters with 0 where the mask is false, also where they are not finite.

    >>> import jax.numpy as jnp
    >>> apply_masks(jnp.array([1.0, 2.0]), jnp.array([True, False])).tolist()
    [1.0, 0.0]
    """
    return jax.tree.map(lambda p, m: jnp.where(m, p, jnp.zeros_like(p)), params, masks)


class PruneState(NamedTuple):
    """State of `prune`.

    Attributes:
      step_count: int32 scalar, the updates made.
      masks: bool, of the parameters' shapes: what is kept.
    """

    step_count: jax.Array
    masks: PyTree


def prune(sparsity: Any, *, every: int = 1, mask: Any = None) -> optax.GradientTransformation:
    """Magnitude pruning as a transformation, last in a chain: pruned weights become and stay 0.

    θ + u is pruned to the fraction `sparsity` (a number or a schedule) of each leaf, by masks that
    are made anew every `every` steps; between them, what is pruned stays so.

    >>> import jax.numpy as jnp
    >>> tx, p = prune(0.5), jnp.array([[1.0, -3.0], [0.5, 2.0]])
    >>> (p + tx.update(jnp.zeros((2, 2)), tx.init(p), p)[0]).tolist()
    [[0.0, -3.0], [0.0, 2.0]]
    """
    checks.count("every", every, "prune")
    if not callable(sparsity) and not 0 <= sparsity <= 1:
        raise ValueError(f"prune: sparsity must be in [0, 1], got {sparsity}.")

    def init(params: PyTree) -> PruneState:
        masks = jax.tree.map(lambda p: jnp.ones(p.shape, jnp.bool), params)
        return PruneState(jnp.zeros((), jnp.int32), masks)

    def update(updates: PyTree, state: Any, params: PyTree = None) -> Any:
        checks.need_params("prune", params)
        moved = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)
        share = sparsity(state.step_count) if callable(sparsity) else sparsity
        masks = jax.lax.cond(
            state.step_count % every == 0,
            lambda: magnitude_masks(moved, jnp.asarray(share), mask=mask),
            lambda: state.masks,
        )
        new = jax.tree.map(
            lambda p, u, m: jnp.where(m, u, -p.astype(u.dtype)), params, updates, masks
        )
        return new, PruneState(optax.safe_increment(state.step_count), masks)

    return optax.GradientTransformation(init, update)


def ensemble_init(init: Callable[[jax.Array], PyTree], key: jax.Array, members: int) -> PyTree:
    """The parameters of an ensemble, with a leading axis of `members`: one `init` each.

    >>> import jax
    >>> ensemble_init(lambda key: jax.random.normal(key, (3,)), jax.random.key(0), 5).shape
    (5, 3)
    """
    checks.count("members", members, "ensemble_init")
    return jax.vmap(init)(jax.random.split(key, members))


def ensemble_loss(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """A loss over members' parameters (M, …) from a loss of one, all in one program.

    The totals are summed over the members and the weight stays that of one, so that each member's
    gradient is what it would be alone: an element-wise rule (or any rule under `jax.vmap`) trains
    every member as if it were the only one. Each gets a random key of its own; metrics are means.

    >>> import jax, jax.numpy as jnp, trainkit
    >>> def loss_fn(params, model_state, batch, rng):
    ...     return trainkit.Loss(jnp.sum((params - batch) ** 2), jnp.float32(batch.size))
    >>> loss = ensemble_loss(loss_fn)(jnp.zeros((4, 3)), {}, jnp.ones(3), jax.random.key(0))
    >>> float(loss.total), float(loss.weight)
    (12.0, 3.0)

    Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty Estimation
    using Deep Ensembles, 2017.
    """

    def loss(params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array) -> Any:
        members = jax.tree.leaves(params)[0].shape[0]
        one = jax.vmap(loss_fn, in_axes=(0, 0 if jax.tree.leaves(model_state) else None, None, 0))
        out = one(params, model_state, batch, jax.random.split(rng, members))
        return out._replace(
            total=jnp.sum(out.total),
            weight=jnp.asarray(out.weight).reshape(members)[0],
            metrics=None
            if out.metrics is None
            else jax.tree.map(lambda x: jnp.mean(x, axis=0), out.metrics),
        )

    return loss


def hard_examples(losses: jax.Array, fraction: float) -> jax.Array:
    """Weights (B,) of 1 for the hardest ⌈fraction · B⌉ examples and 0 for the rest, no gradient.

    Multiply losses by them and divide by their sum. A NaN counts as hardest, so that it is seen.

    >>> import jax.numpy as jnp
    >>> hard_examples(jnp.array([0.1, 3.0, 0.2, 1.0]), 0.5).tolist()
    [0.0, 1.0, 0.0, 1.0]

    Shrivastava, Gupta and Girshick, Training Region-based Object Detectors with Online Hard Example
    Mining, 2016.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"hard_examples: fraction must be in (0, 1], got {fraction}.")
    size = losses.shape[0]
    kept = -int(-fraction * size // 1)
    rank = jnp.argsort(jnp.argsort(-jax.lax.stop_gradient(jnp.nan_to_num(losses, nan=jnp.inf))))
    return (rank < kept).astype(losses.dtype)


def importance_sample(
    key: jax.Array, scores: jax.Array, count: int, *, mix: float = 0.1
) -> tuple[jax.Array, jax.Array]:
    """Draws `count` of B examples in proportion to their scores; returns (indices, weights).

    pᵢ = (1 − mix) scoreᵢ/Σ scores + mix/B, and the weights 1/(B pᵢ) make the weighted mean over the
    draw an unbiased estimate of the plain mean over all B. `mix` > 0 bounds them by 1/mix. The
    variance is least for scores that are the norms of the examples' gradients (`gradient_norms`).

    >>> import jax, jax.numpy as jnp
    >>> i, w = importance_sample(jax.random.key(0), jnp.array([1.0, 1.0, 2.0]), 2, mix=0.0)
    >>> i.shape, bool(jnp.all(jnp.isclose(w, jnp.where(i == 2, 2 / 3, 4 / 3))))
    ((2,), True)

    Katharopoulos and Fleuret, Not All Samples Are Created Equal, 2018.
    """
    checks.count("count", count, "importance_sample")
    if not 0 <= mix <= 1:
        raise ValueError(f"importance_sample: mix must be in [0, 1], got {mix}.")
    size = scores.shape[0]
    total = jnp.sum(scores)
    # Where all scores are 0 the draw is uniform.
    share = jnp.where(total > 0, scores / jnp.where(total > 0, total, 1), 1 / size)
    p = (1 - mix) * share + mix / size
    indices = jax.random.choice(key, size, (count,), p=p)
    return indices, 1 / (size * p[indices])


def gradient_norms(
    loss: Callable[[PyTree, PyTree], jax.Array], params: PyTree, batch: PyTree
) -> jax.Array:
    """‖∇ loss(params, example)‖ for each example of a batch, (B,): scores to sample by.

    >>> import jax.numpy as jnp
    >>> gradient_norms(lambda p, x: jnp.sum(p * x), jnp.ones(2), jnp.array([[3.0, 4.0]])).tolist()
    [5.0]
    """
    return jax.vmap(lambda example: safe_norm(jax.grad(loss)(params, example)))(batch)
