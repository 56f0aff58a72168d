"""Which examples of a batch count, and how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core import validation
from trainkit._core.counts import rounded_up
from trainkit.transforms.clipping import safe_norm

PyTree = Any


def hard_examples(losses: jax.Array, fraction: float) -> jax.Array:
    """Weights (B,) of 1 for the hardest ⌈fraction · B⌉ examples and 0 for the rest, no gradient.

    Multiply losses by them and divide by their sum. A NaN counts as hardest, so that it is seen.

    >>> import jax.numpy as jnp
    >>> hard_examples(jnp.array([0.1, 3.0, 0.2, 1.0]), 0.5).tolist()
    [0.0, 1.0, 0.0, 1.0]

    Shrivastava, Gupta and Girshick, Training Region-based Object Detectors with Online Hard Example
    Mining, 2016.
    """
    validation.number("fraction", fraction, "hard_examples", above=0, most=1)
    size = losses.shape[0]
    kept = rounded_up(float(fraction) * size)
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
    validation.random_key("key", key, "importance_sample", seeds=False)
    validation.integer("count", count, "importance_sample")
    validation.number("mix", mix, "importance_sample", least=0, most=1)
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
