"""The non-finite guard: skips updates with a non-finite gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import cast_like
from trainkit.transforms.rule import states_of
from trainkit.transforms.state.named import injected

PyTree = Any


class GuardState(NamedTuple):
    """State of `skip_nonfinite`.

    Attributes:
      skipped: int32 scalar, the total number of skipped updates.
      in_a_row: int32 scalar, the number of skipped updates since the last one that was not.
      inner_state: the state of the transformation inside.
    """

    skipped: jax.Array
    in_a_row: jax.Array
    inner_state: PyTree


def skip_nonfinite(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Skips an update if its gradient has a NaN or an infinity: updates of 0, same inner state.

    The inner state stays bitwise the same, so the next finite step is not affected. It never passes
    on a non-finite gradient (`optax.apply_if_finite` does, after its limit). `in_a_row` in the
    state counts them, and `check_guard(state, limit)` raises on the host. With data parallelism,
    put it after the mean of the gradients, so that all replicas decide equally. It composes with
    `accumulate` in either order.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.skip_nonfinite(tt.sgd(1.0, momentum=0.9))
    >>> u, state = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(jnp.ones(2)))
    >>> u.tolist(), int(state.skipped)
    ([0.0, 0.0], 1)
    """
    inner = injected(tx)

    def init(params: PyTree) -> GuardState:
        return GuardState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), inner.init(params))

    def update(
        updates: PyTree, state: GuardState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, GuardState]:
        numbers = [g for g in jax.tree.leaves(updates) if jnp.issubdtype(g.dtype, jnp.inexact)]
        tests = [jnp.isfinite(g).all() for g in numbers]
        ok = jnp.stack(tests).all() if tests else jnp.ones((), jnp.bool)
        # Pass zeros instead, so that a loop inside the rule ends.
        clean = jax.tree.map(lambda g: jnp.where(ok, g, jnp.zeros_like(g)), updates)
        out, inner_state = inner.update(clean, state.inner_state, params, **extra)
        inner_state = cast_like(inner_state, state.inner_state)
        pick = lambda new, old: jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
        return (
            jax.tree.map(lambda u: jnp.where(ok, u, jnp.zeros_like(u)), out),
            GuardState(
                skipped=jnp.where(ok, state.skipped, optax.safe_increment(state.skipped)),
                in_a_row=jnp.where(ok, 0, optax.safe_increment(state.in_a_row)),
                inner_state=pick(inner_state, state.inner_state),
            ),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def check_guard(state: PyTree, limit: int) -> None:
    """Raises FloatingPointError if more than `limit` updates in a row were skipped.

    It waits for the device, so do not call it at every step.
    """
    validation.integer("limit", limit, "check_guard", least=0)
    for guard in states_of(GuardState, state):
        if (n := int(jnp.max(guard.in_a_row))) > limit:
            raise FloatingPointError(
                f"{n} updates in a row had a non-finite gradient (limit {limit}); lower the "
                "learning rate, clip the gradients, or check the batches."
            )
