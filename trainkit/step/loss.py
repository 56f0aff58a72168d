"""`Loss`, the result of a loss function: a sum and its weight, not a mean."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

PyTree = Any


class Loss(NamedTuple):
    """The value of a loss on a batch, or on a part of one.

    Losses of micro-batches and devices are combined as Σ total / Σ weight. A mean of means would be
    wrong if the parts differ in weight (masks, an uneven last batch), so the division comes last.

    Attributes:
      total: scalar, Σᵢ wᵢ·ℓᵢ over the examples (or tokens) of this part.
      weight: scalar, Σᵢ wᵢ. The plain mean over a batch of B examples has weight B.
      model_state: the new model state (batch statistics); `None` if unchanged.
      metrics: name -> `(total, weight)` of scalars, or name -> total with the weight of the loss;
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
