"""Gradient accumulation: weighted sums over micro-steps, with one update per window."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import cast_like, is_float, scalar_like, widest
from trainkit.transforms.state.named import injected

PyTree = Any


class AccumulateState(NamedTuple):
    """State of `accumulate`.

    Attributes:
      micro_step: int32 scalar, the number of micro-steps in the current window.
      gradient_step: int32 scalar, the number of updates.
      weight: float32 scalar, Σ w of the current window.
      accumulated: Σ w g of the current window, in float32 or wider. After a window it contains the
        last update, which the next window does not use.
      inner_state: the state of the transformation inside.
    """

    micro_step: jax.Array
    gradient_step: jax.Array
    weight: jax.Array
    accumulated: PyTree
    inner_state: PyTree


def accumulate(
    tx: optax.GradientTransformation, every: int
) -> optax.GradientTransformationExtraArgs:
    """One update of `tx` for every `every` gradients, by their weighted mean Σ w g / Σ w.

    `update` takes `weight`, the weight of the loss (the number of examples or tokens in its mean; 1
    if left out), so that uneven micro-batches give the gradient of the whole batch. Within a window
    the updates are 0. `tx` gets the other extra arguments of the last micro-step.

    The inner update runs under `lax.cond`, so other micro-steps do not pay for it. Sums are reset
    by selection, not by multiplication with 0, so that a NaN does not outlive its window. With a
    guard outside (`skip_nonfinite(accumulate(tx, k))`), a non-finite gradient costs one micro-step;
    with one inside (`accumulate(skip_nonfinite(tx), k)`), its window. If all weights of a window
    are 0, its gradient is 0. Optax: `optax.MultiSteps`, which gives all micro-steps the same
    weight, and keeps a NaN forever.

    Raises:
      ValueError: `every` below 1, a negative weight.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.accumulate(tt.sgd(1.0), every=2)
    >>> u, state = tx.update(jnp.array([1.0]), tx.init(jnp.ones(1)), weight=3.0)
    >>> u.tolist(), tx.update(jnp.array([5.0]), state, weight=1.0)[0].tolist()
    ([0.0], [-2.0])
    """
    validation.integer("every", every, "accumulate")
    inner = injected(tx)

    def init(params: PyTree) -> AccumulateState:
        return AccumulateState(
            micro_step=jnp.zeros((), jnp.int32),
            gradient_step=jnp.zeros((), jnp.int32),
            weight=jnp.zeros((), jnp.float32),
            accumulated=jax.tree.map(
                lambda p: jnp.zeros_like(p, dtype=widest(p) if is_float(p) else None), params
            ),
            inner_state=inner.init(params),
        )

    def update(
        updates: PyTree,
        state: AccumulateState,
        params: PyTree = None,
        *,
        weight: Any = 1.0,
        **extra: Any,
    ) -> tuple[PyTree, AccumulateState]:
        validation.same_tree(updates, state.accumulated, "state (accumulated)", "accumulate")
        validation.number("weight", weight, "accumulate", least=0)
        weight = jnp.asarray(weight).astype(jnp.float32)
        last = state.micro_step + 1 >= every
        total, summed = _added(updates, weight, state)

        def step() -> tuple[PyTree, PyTree]:
            by = jnp.where(total == 0, 1, total)
            mean = jax.tree.map(
                lambda a, g: (a / scalar_like(by, a)).astype(g.dtype), summed, updates
            )
            out, inner_state = inner.update(mean, state.inner_state, params, **extra)
            return cast_like(out, summed), cast_like(inner_state, state.inner_state)

        def wait() -> tuple[PyTree, PyTree]:
            return summed, state.inner_state

        # The update reuses the buffer of the sum, and the zeros of other micro-steps are fused into
        # their consumers. Separate buffers made a micro-step four times as expensive.
        kept, inner_state = jax.lax.cond(last, step, wait)
        out = jax.tree.map(
            lambda u, g: jnp.where(last, u, jnp.zeros_like(u)).astype(g.dtype), kept, updates
        )
        return out, AccumulateState(
            micro_step=jnp.where(last, 0, state.micro_step + 1),
            gradient_step=jnp.where(
                last, optax.safe_increment(state.gradient_step), state.gradient_step
            ),
            weight=total,
            accumulated=kept,
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _added(updates: PyTree, weight: jax.Array, state: AccumulateState) -> tuple[jax.Array, PyTree]:
    """Σ w and Σ w g of the window, with one more gradient."""
    first = state.micro_step == 0

    def one(g: jax.Array, a: jax.Array) -> jax.Array:
        # The gradient of a fully masked micro-batch may be 0/0; with weight 0, nothing is added.
        new = jnp.where(weight == 0, 0, weight.astype(a.dtype) * g.astype(a.dtype))
        return jnp.where(first, 0, a) + new

    total = weight + jnp.where(first, 0, state.weight)
    return total, jax.tree.map(one, updates, state.accumulated)


def has_updated(state: AccumulateState) -> jax.Array:
    """Whether the last micro-step ended its window, as a bool scalar."""
    return (state.micro_step == 0) & (state.gradient_step > 0)
