"""How noisy the gradients of batches are: a batch size beyond which larger ones hardly help."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core import validation
from trainkit.step.loss import LossFn
from trainkit.step.state import TrainState

PyTree = Any


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """What `noise_scale` found.

    Attributes:
      examples: B = tr Σ / |G|², in examples; infinite where the noise hides the gradient.
      gradient: |G|², of the gradient of the loss; an unbiased estimate, which may be below 0.
      noise: tr Σ, the sum of the variances of the gradient of one example.
      batches: how many were used.
    """

    examples: float
    gradient: float
    noise: float
    batches: int


def noise_scale(loss_fn: LossFn, state: TrainState, data: Any, *, batches: int = 50) -> NoiseScale:
    """The gradient-noise scale at a state, from the gradients gᵢ of n batches of b examples:

      tr Σ = b · (mean |gᵢ|² − |ḡ|²) · n / (n − 1),   |G|² = |ḡ|² − tr Σ / (n · b)

    Batches much smaller than tr Σ / |G|² examples make progress in proportion to their size; much
    larger ones hardly more than it. It grows while a model trains. The parameters stay as they are.

    Args:
      loss_fn: as for `make_train_step`, a model of `from_linen` or `from_nnx` included.
      state: whose parameters, model state and random key are used.
      data: yields batches of one size; what is drawn of an iterator is used up.
      batches: how many are drawn, 2 or more; fewer where the data ends.

    Raises:
      TypeError, ValueError: fewer than two batches; batches of different sizes.

    Reference: McCandlish et al., An Empirical Model of Large-Batch Training, 2018 (appendix A.1).

    >>> import numpy as np, optax, trainkit
    >>> def loss_fn(params, model_state, batch, rng):
    ...     return trainkit.Loss(((params - batch) ** 2 / 2).sum(), len(batch))
    >>> state = TrainState.create(jnp.zeros(()), optax.sgd(0.1))
    >>> rows = np.random.default_rng(0).normal(1.0, 2.0, (400, 8)).astype(np.float32)
    >>> found = noise_scale(loss_fn, state, rows, batches=400)  # of 8 examples, with σ² = 4, G = −1
    >>> round(found.noise, 1), round(found.gradient, 1)
    (4.1, 0.9)
    """
    validation.function("loss_fn", loss_fn, "(params, model_state, batch, rng) -> Loss")
    validation.integer("batches", batches, "noise_scale", least=2)

    @jax.jit
    def gradient(batch: PyTree, rng: jax.Array) -> tuple[PyTree, jax.Array]:
        def mean(params: PyTree) -> jax.Array:
            loss = loss_fn(params, state.model_state, batch, rng)
            return loss.total / loss.weight

        found = jax.grad(mean)(state.params)
        return found, _square(found)

    sums, squares, sizes = None, 0.0, []
    for number, batch in enumerate(itertools.islice(data, batches)):
        sizes.append(len(jax.tree.leaves(batch)[0]))
        if sizes[-1] != sizes[0]:
            raise ValueError(
                f"noise_scale needs batches of one size, and there are some of {sizes[0]} and of "
                f"{sizes[-1]} examples: give a Sampler, or drop the last batch."
            )
        found, square = gradient(batch, jax.random.fold_in(state.rng, number))
        sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
        squares += float(square)
    n = len(sizes)
    if n < 2:
        raise ValueError(f"noise_scale needs 2 batches or more, not {n}.")
    of_mean = float(_square(jax.tree.map(lambda x: x / n, sums)))
    noise = sizes[0] * (squares / n - of_mean) * n / (n - 1)
    signal = of_mean - noise / (n * sizes[0])
    return NoiseScale(noise / signal if signal > 0 else math.inf, signal, noise, n)


def _square(tree: PyTree) -> jax.Array:
    leaves = [jnp.sum(jnp.square(jnp.abs(x).astype(jnp.float32))) for x in jax.tree.leaves(tree)]
    return jnp.sum(jnp.stack(leaves))
