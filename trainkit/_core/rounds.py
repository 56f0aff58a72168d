"""Rounds: inner steps that each replica takes by itself, then a mean and an outer step.

A step tells its transformations about them by the extra argument `round`. At each inner step it is
the number of inner steps in a round: no transformation takes an outer step by itself. Once after
them it is `OVER`: the outer step alone, for parameters that are the mean over the replicas; the
gradients are then 0 and mean nothing. In every other placement it is `None`.

The states of transformations that take outer steps are found by their fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any
OVER = 0
OUTER = ("slow", "outer_state")  # changed by outer steps only, so the same on every replica


def takes_outer_steps(node: Any) -> bool:
    """Whether a node of an optimizer state is that of a transformation with an outer step."""
    return all(hasattr(node, name) for name in OUTER)


def outer_step(
    update: Callable[..., Any], params: PyTree, opt_state: PyTree
) -> tuple[PyTree, PyTree]:
    """Parameters and optimizer state after the outer step of a round, wherever it is in a rule.

    The whole rule is called, but only the states of what takes outer steps are kept. So what is
    around them, such as a factor on all updates, counts no step and does not change this one.

    Args:
      update: of the whole rule; it ignores extra arguments that it does not accept.
      params, opt_state: the means over the replicas.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=takes_outer_steps)
    if not any(map(takes_outer_steps, nodes)):
        return params, opt_state
    zeros = jax.tree.map(jnp.zeros_like, params)
    zero, one = jnp.zeros(()), jnp.ones(())
    with jax.numpy_dtype_promotion("standard"):  # not every transform of Optax is strict
        _, stepped = update(
            zeros, opt_state, params, value=zero, grad=zeros, weight=one,
            value_fn=lambda params, **_: zero, round=OVER,
        )  # fmt: skip
    opt_state = jax.tree.map(
        lambda old, new: new if takes_outer_steps(old) else old,
        opt_state, stepped, is_leaf=takes_outer_steps,
    )  # fmt: skip
    masked = lambda x: isinstance(x, optax.MaskedNode)
    for node in filter(takes_outer_steps, jax.tree.leaves(opt_state, is_leaf=takes_outer_steps)):
        params = jax.tree.map(
            lambda slow, p: p if masked(slow) else slow.astype(p.dtype),
            node.slow, params, is_leaf=masked,
        )  # fmt: skip
    return params, opt_state
