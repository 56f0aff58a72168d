"""Results of trajectories, and the compiled program that runs a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.problems import cases


class Run(NamedTuple):
    """The result of one trajectory: `flat[t]` is the flattened update of step t."""

    flat: np.ndarray  # [T, N]
    params: np.ndarray  # [T, N], as the rule saw them
    grads: np.ndarray  # [T, N], as the rule saw them
    state_finite: np.ndarray  # [T] bool


@dataclass(frozen=True)
class Runs:
    """The results of all trajectories of a batch, in one precision."""

    batch: cases.Batch
    flat: np.ndarray  # [E, T, N] float64
    params: np.ndarray
    grads: np.ndarray
    state_finite: np.ndarray  # [E, T]

    def __getitem__(self, name: str) -> Run:
        i = self.batch.rows[name]
        return Run(self.flat[i], self.params[i], self.grads[i], self.state_finite[i])


def scanned(
    update: Callable[..., Any], init: Callable[..., Any], dtype: str,
    shapes: tuple[tuple[int, ...], ...],
) -> Callable[..., Any]:  # fmt: skip
    """The compiled program that runs every trajectory of a batch in sequence."""

    curved = cases.curvatures(sum(cases.sizes(shapes))).astype(jnp.dtype(dtype))

    def one(row: Any) -> Any:
        base, grads, follow, pull = row
        state = init(cases.tree(base[0], shapes))

        def step(carry: Any, x: Any) -> Any:
            state, moved = carry
            b, g = x
            p = b + follow * moved
            # If pull is 0, this adds 0, and infinities and NaNs stay.
            g = g + jnp.where(pull > 0, pull * curved * moved, jnp.zeros_like(moved))
            updates, state = update(cases.tree(g, shapes), state, cases.tree(p, shapes))
            flat = cases.flatten(updates)
            seen = (flat, p, g, all_finite(state))
            return (state, moved + flat.astype(moved.dtype)), seen

        _, out = jax.lax.scan(step, (state, jnp.zeros_like(base[0])), (base, grads))
        return out

    return jax.jit(
        lambda params, grads, follow, pull: jax.lax.map(one, (params, grads, follow, pull))
    )


def all_finite(state: Any) -> Any:
    ok = jnp.array(True)
    for x in jax.tree.leaves(state):
        if jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            ok &= jnp.all(jnp.isfinite(x))
    return ok
