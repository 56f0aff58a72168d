"""What a loss function returns: a sum and the weight it was summed over, never a mean."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

PyTree = Any


class Loss(NamedTuple):
    """The value of a loss on (part of) a batch.

    Losses of micro-batches and devices are combined as Σ total / Σ weight. A mean of means is
    wrong as soon as the parts differ in weight (masks, uneven last batches), so nothing here is
    divided before everything has been summed.

    Attributes:
      total: scalar, Σᵢ wᵢ·ℓᵢ over the examples (or tokens) of this part.
      weight: scalar, Σᵢ wᵢ. The plain mean over a batch of B examples has weight B.
      model_state: the model's new state (batch statistics), or `None` for "unchanged".
      metrics: name -> `(total, weight)`, or name -> total where the weight is the loss's own;
        `None` for none.
    """

    total: jax.Array
    weight: jax.Array | float
    model_state: PyTree = None
    metrics: dict[str, Any] | None = None


class LossFn(Protocol):
    """`loss_fn(params, model_state, batch, rng) -> Loss`, a pure function."""

    def __call__(
        self, params: PyTree, model_state: PyTree, batch: PyTree, rng: jax.Array
    ) -> Loss: ...
