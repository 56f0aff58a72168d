"""Averages of the parameters during a run, for evaluation: EMA and SWA."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import cast_like, own, upcast
from trainkit.transforms.masked_trees import assembled, kept
from trainkit.transforms.rule import states_of
from trainkit.transforms.state.named import injected

PyTree = Any


class AverageState(NamedTuple):
    """State of `average_params`.

    Attributes:
      count: int32 scalar, the number of updates.
      averaged: int32 scalar, the number of averaged parameter values.
      average: the average, in float32 or wider; initially the initial parameters.
      inner_state: the state of the transformation inside.
    """

    count: Any  # an array; tuples have a method of this name
    averaged: jax.Array
    average: PyTree
    inner_state: PyTree


def average_params(
    tx: optax.GradientTransformation,
    decay: float | str = 0.999,
    *,
    start: int = 0,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """`tx`, with an average of the parameters *after* each update.

    EMA: a ← d a + (1 − d) θ with d = min(decay, n/(n + 1)) for the n-th averaged θ. At first this
    is the plain mean, without the initial parameters (a fixed d would keep dᵗ of them). SWA:
    `decay="swa"`, always the plain mean a ← a + (θ − a)/(n + 1). It averages every `every`-th
    update from update `start` on. Evaluate with `averaged(state, params)`.

    It wraps the whole rule, because an average before the learning rate in a chain would not
    average parameters. It computes in float32, because an average in bfloat16 would not change. Put
    `accumulate` and `skip_nonfinite` around it, so that steps without an update are not averaged.
    Optax: `optax.ema` averages updates, not parameters; `optax.incremental_update` is the formula.

    Raises:
      ValueError: a decay outside [0, 1), `every` below 1, or an update without parameters.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx, p = tt.average_params(tt.sgd(1.0), "swa"), jnp.array([4.0])
    >>> state = tx.init(p)
    >>> for _ in range(2):
    ...     u, state = tx.update(jnp.array([1.0]), state, p)
    ...     p = p + u
    >>> p.tolist(), averaged(state, p).tolist()
    ([2.0], [2.5])

    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; Izmailov et
    al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018.
    """
    if isinstance(decay, str):
        validation.choice("decay", decay, ("swa",), "average_params", other="a number")
    else:
        validation.number("decay", decay, "average_params", least=0, below=1)
    validation.integer("start", start, "average_params", least=0)
    validation.integer("every", every, "average_params")
    inner = injected(tx)

    def init(params: PyTree) -> AverageState:
        average = own(upcast(params), params)
        zero = lambda: jnp.zeros((), jnp.int32)
        return AverageState(zero(), zero(), average, inner.init(params))

    def update(
        updates: PyTree, state: AverageState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, AverageState]:
        validation.need_params("average_params", params)
        out, inner_state = inner.update(updates, state.inner_state, params, **extra)
        due = (state.count >= start) & ((state.count - start) % every == 0)
        n = state.averaged

        def one(a: jax.Array, p: jax.Array, u: jax.Array) -> jax.Array:
            # The parameters as the caller stores them, not in float32.
            new = (p.astype(a.dtype) + u.astype(a.dtype)).astype(p.dtype).astype(a.dtype)
            k = n.astype(a.dtype)
            keep = k / (k + 1)
            if not isinstance(decay, str):
                keep = jnp.minimum(keep, decay)
            # By the difference, so that an average of equal values is that value.
            return jnp.where(due, jnp.where(n == 0, new, a + (1 - keep) * (new - a)), a)

        return out, AverageState(
            count=optax.safe_increment(state.count),
            averaged=jnp.where(due, optax.safe_increment(n), n),
            average=jax.tree.map(one, state.average, params, out),
            inner_state=cast_like(inner_state, state.inner_state),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def averaged(state: PyTree, params: PyTree = None) -> PyTree:
    """The averaged parameters in a state, for evaluation, in the dtypes of `params`.

    Args:
      state: an optimizer state or a `TrainState` with an `average_params` anywhere in it, also in
        groups. Parameters without an average are returned unchanged.
      params: the trained parameters; not needed with a `TrainState`.

    Raises:
      ValueError: the state has no average, or several for one parameter.
    """
    if params is None and not hasattr(state, "params"):
        raise ValueError("averaged needs the parameters too: averaged(opt_state, params).")
    params = state.params if params is None else params
    parts = [held.average for held in states_of(AverageState, state)]
    return cast_like(
        assembled(parts, params, "averages of the parameters", "average_params(tx, decay)"), params
    )


def swap(state: Any) -> Any:
    """A `TrainState` in which averaged and trained parameters are exchanged.

    Evaluate the result, and continue training from the given state, which does not change. Or
    `swap` again: the trained parameters are restored bitwise, and so is a float32 average. (An
    average of bfloat16 parameters is rounded to bfloat16.)
    """
    is_one = lambda x: isinstance(x, AverageState)
    stored = lambda x: x._replace(average=kept(upcast(state.params), x.average))
    opt_state = jax.tree.map(
        lambda x: stored(x) if is_one(x) else x, state.opt_state, is_leaf=is_one
    )
    return state.replace(params=averaged(state), opt_state=opt_state)
