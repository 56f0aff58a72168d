"""Several models trained as one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core import validation

PyTree = Any


def ensemble_init(init: Callable[[jax.Array], PyTree], key: jax.Array, members: int) -> PyTree:
    """The parameters of an ensemble, with a leading axis of `members`: one `init` each.

    >>> import jax
    >>> ensemble_init(lambda key: jax.random.normal(key, (3,)), jax.random.key(0), 5).shape
    (5, 3)
    """
    validation.integer("members", members, "ensemble_init")
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
