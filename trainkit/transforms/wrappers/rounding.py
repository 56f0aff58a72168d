"""Stochastic rounding, which preserves small updates of bfloat16 parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core import validation
from trainkit._core.dtypes import cast_like, is_float, upcast
from trainkit.transforms.noise import key_data, key_of_update, keys_like
from trainkit.transforms.rounding import stochastic_round
from trainkit.transforms.state.named import injected

PyTree = Any


class RoundingState(NamedTuple):
    """State of `stochastic_rounding`.

    Attributes:
      count: int32 scalar, the number of updates; each folds its number into the key.
      key: uint32[2], the data of a random key, which never changes.
      inner_state: the state of the transformation inside.
    """

    count: Any  # an array; tuples have a method of this name
    key: jax.Array
    inner_state: PyTree


def stochastic_rounding(
    tx: optax.GradientTransformation, key: jax.Array | int = 0
) -> optax.GradientTransformationExtraArgs:
    """`tx` with stochastic rounding of bfloat16 (and float16) parameters.

    With rounding to nearest, 1 − 1000 · 10⁻³ stays 1 in bfloat16: every step is lost. Here the step
    is computed in float32, and the *result* is rounded stochastically, so that small steps are
    correct on average. The updates are differences in float32, for any dtype of gradients; added to
    the parameters, they give exactly the rounded result. Wider parameters are not affected. It must
    be the outermost wrapper, needs the parameters, and rounds equally on every replica. Not in
    Optax.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx, p = tt.stochastic_rounding(tt.sgd(1.0)), jnp.ones(1000, jnp.bfloat16)
    >>> u, _ = tx.update(jnp.full(1000, 1e-3, jnp.bfloat16), tx.init(p), p)
    >>> p = tt.apply_updates(p, u)
    >>> p.dtype, 0.998 < float(p.astype(jnp.float32).mean()) < 0.9995
    (dtype(bfloat16), True)

    Zamirai et al., Revisiting BFloat16 Training, 2020.
    """
    inner = injected(tx)

    def init(params: PyTree) -> RoundingState:
        return RoundingState(jnp.zeros((), jnp.int32), key_data(key), inner.init(params))

    def update(
        updates: PyTree, state: RoundingState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, RoundingState]:
        validation.need_params("stochastic_rounding", params)
        steps, inner_state = inner.update(upcast(updates), state.inner_state, params, **extra)
        keys = keys_like(key_of_update(state), params)

        def one(p: jax.Array, u: jax.Array, k: jax.Array) -> jax.Array:
            if not is_float(p) or np.dtype(p.dtype).itemsize >= 4:
                return u
            wide = p.astype(jnp.float32)
            return stochastic_round(wide + u, p.dtype, k).astype(jnp.float32) - wide

        return jax.tree.map(one, params, steps, keys), RoundingState(
            count=optax.safe_increment(state.count),
            key=state.key,
            inner_state=cast_like(inner_state, state.inner_state),
        )

    return optax.GradientTransformationExtraArgs(init, update)
