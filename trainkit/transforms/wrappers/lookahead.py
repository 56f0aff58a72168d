"""Slow weights that follow fast ones: lookahead, and DiLoCo's outer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import cast_like, own, upcast
from trainkit._core.rounds import OVER
from trainkit.transforms.state.named import injected

PyTree = Any


class SlowWeightsState(NamedTuple):
    """State of `lookahead`.

    Attributes:
      count: int32 scalar, the updates made.
      slow: the slow weights, float32 at least.
      inner_state: the state of the transformation inside.
      outer_state: that of the one that moves the slow weights.
    """

    count: Any  # an array; tuples have a method of this name
    slow: PyTree
    inner_state: PyTree
    outer_state: PyTree


def lookahead(
    tx: optax.GradientTransformation,
    sync_period: int = 5,
    slow_step_size: float | None = None,
    *,
    outer: optax.GradientTransformation | None = None,
    reset_state: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """`tx` for `sync_period` steps, then a step of the slow weights, from which it goes on.

    The slow weights φ begin as the parameters. After every k-th update φ ← φ + α (θ − φ), θ ← φ,
    where α is `slow_step_size` (.5). With `outer` they take its step instead, for the gradient
    φ − θ: DiLoCo's outer step is `lookahead(adamw(η), 500, outer=nesterov(0.7, 0.9))`, for the mean
    of θ over several replicas where the placement is `trainkit.placement.periodic`: then the step
    says when, at the end of each of its calls. `reset_state` begins `tx` anew after each of them.
    Unlike `optax.lookahead` it takes plain parameters: they are the fast weights.

    Raises:
      ValueError: a period below 1, a step size beside an outer rule, an update without parameters,
        or a period that is not the steps of a call, where replicas take them apart.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx, p = tt.lookahead(tt.sgd(1.0), 2, 0.5), jnp.array([4.0])
    >>> state = tx.init(p)
    >>> for _ in range(2):
    ...     u, state = tx.update(jnp.array([1.0]), state, p)
    ...     p = p + u
    >>> p.tolist()  # 4, 3, 2 and half way back
    [3.0]

    Zhang et al., Lookahead Optimizer: k steps forward, 1 step back, 2019; Douillard et al., DiLoCo:
    Distributed Low-Communication Training of Language Models, 2023.
    """
    validation.integer("sync_period", sync_period, "lookahead")
    if outer is None:
        share = 0.5 if slow_step_size is None else slow_step_size
        validation.number("slow_step_size", share, "lookahead", least=0)
        outer = optax.sgd(share)
    elif slow_step_size is not None:
        raise ValueError("lookahead: give slow_step_size or outer, which has a rate of its own.")
    inner, slowly = injected(tx), injected(outer, "outer")

    def init(params: PyTree) -> SlowWeightsState:
        slow = own(upcast(params), params)
        state = inner.init(params), slowly.init(slow)
        return SlowWeightsState(jnp.zeros((), jnp.int32), *own((slow, *state), params))

    def update(
        updates: PyTree,
        state: SlowWeightsState,
        params: PyTree = None,
        *,
        round: int | None = None,
        pace: Callable[[PyTree], PyTree] | None = None,
        **extra: Any,
    ) -> tuple[PyTree, SlowWeightsState]:
        validation.need_params("lookahead", params)
        if round == OVER:
            slow, outer_state = _outer_step(slowly, params, state)
            held = inner.init(params) if reset_state else state.inner_state
            after = SlowWeightsState(state.count, slow, held, outer_state)
            return cast_like(_to(slow, params), updates), cast_like(after, state)
        if round is not None:
            _same_period(sync_period, round)
        step, inner_state = inner.update(updates, state.inner_state, params, **extra)
        inner_state = cast_like(inner_state, state.inner_state)
        step = step if pace is None else pace(step)
        count = optax.safe_increment(state.count)
        if round is not None:
            return step, state._replace(count=count, inner_state=inner_state)

        def sync() -> Any:
            fast = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, step)
            slow, outer_state = _outer_step(slowly, fast, state)
            held = inner.init(params) if reset_state else inner_state
            return _to(slow, params), slow, held, outer_state

        like = step, state.slow, inner_state, state.outer_state
        out, slow, inner_state, outer_state = jax.lax.cond(
            count % sync_period == 0, lambda: cast_like(sync(), like), lambda: cast_like(like, like)
        )
        return out, SlowWeightsState(count, slow, inner_state, outer_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _outer_step(
    slowly: optax.GradientTransformation, fast: PyTree, state: SlowWeightsState
) -> tuple[PyTree, PyTree]:
    """The slow weights and the outer state after a step towards the fast weights."""
    back = jax.tree.map(lambda s, f: s - f.astype(s.dtype), state.slow, fast)
    moved, outer_state = slowly.update(back, state.outer_state, state.slow)
    return jax.tree.map(lambda s, m: s + m.astype(s.dtype), state.slow, moved), outer_state


def _to(slow: PyTree, params: PyTree) -> PyTree:
    """The updates that lead to the slow weights."""
    return jax.tree.map(lambda s, p: s - p.astype(s.dtype), slow, params)


def _same_period(sync_period: int, steps: int) -> None:
    if sync_period != steps:
        raise ValueError(
            f"lookahead: sync_period={sync_period}, but this placement averages after each call, "
            f"of {steps} step{'s' * (steps > 1)}, and only then is there a mean to take an outer "
            f"step from. Give make_train_step(steps_per_call={sync_period}), or "
            f"lookahead(tx, {steps})."
        )
