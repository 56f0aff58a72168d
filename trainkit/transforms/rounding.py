"""Rounding to a narrow dtype that is right in the mean, and second moments kept in one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def stochastic_round(x: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    """Rounds to one of the two neighbours in `dtype`, the nearer the likelier: E[round(x)] = x.

    Values that `dtype` can represent do not change, nor do infinities and NaN.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.full(10000, 1 + 2.0**-9)  # a quarter of the way to the next bfloat16
    >>> rounded = stochastic_round(x, jnp.bfloat16, jax.random.key(0))
    >>> round(float(rounded.astype(jnp.float32).mean()), 3)
    1.002

    Gupta et al., Deep Learning with Limited Numerical Precision, 2015.
    """
    near = x.astype(dtype)
    back = near.astype(x.dtype)
    towards = jnp.where(x > back, jnp.inf, -jnp.inf).astype(dtype)
    other = jnp.nextafter(near, towards)
    gap = other.astype(x.dtype) - back
    chance = jnp.where(jnp.isfinite(gap) & (gap != 0), (x - back) / gap, 0)
    return jnp.where(jax.random.uniform(key, x.shape) < chance, other, near)


def nu_in(tx: optax.GradientTransformation, dtype: Any, of: str) -> optax.GradientTransformation:
    """A chain whose first state has `count` and `nu`, with ν kept in `dtype` (`None`: as it is).

    In bfloat16 the neighbours of a number are .4 to .8 % apart, and ν changes by 1 − β₂ of itself
    or less: rounded to nearest, it would stay where it is. It is rounded stochastically, with a key
    made of the count, so that a run can be repeated and all replicas round alike.

    Raises:
      ValueError: `dtype` has not the range of float32, in which squares of gradients lie.
    """
    if dtype is None:
        return tx
    kind = jnp.dtype(dtype)
    if not jnp.issubdtype(kind, jnp.floating) or jnp.finfo(kind).minexp > -126:
        raise ValueError(
            f"{of}: nu_dtype must be a dtype with float32's range, as bfloat16 and float32, not "
            f"{kind.name}: squares of gradients below 2·10⁻⁴ are 0 in it, and divide a step."
        )

    def with_nu(state: Any, nu: PyTree) -> Any:
        return (state[0]._replace(nu=nu), *state[1:])

    def init(params: PyTree) -> Any:
        state = tx.init(params)
        return with_nu(state, jax.tree.map(lambda v: v.real.astype(kind), state[0].nu))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> Any:
        # In the dtype of the gradients: the guard of a rule makes that float32 at least.
        wide = jax.tree.map(lambda v, g: v.astype(g.dtype), state[0].nu, updates)
        out, new = tx.update(updates, with_nu(state, wide), params)
        if kind.itemsize >= 4:
            return out, with_nu(new, jax.tree.map(lambda v: v.real.astype(kind), new[0].nu))
        # One key for all leaves: a leaf's rounding does not depend on its place in the tree.
        key = jax.random.fold_in(jax.random.key(0), state[0].count)
        rounded = lambda v: stochastic_round(v.real, kind, key)
        return out, with_nu(new, jax.tree.map(rounded, new[0].nu))

    return optax.GradientTransformation(init, update)
