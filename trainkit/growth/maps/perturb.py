"""Shrink and perturb: scales down trained parameters and adds new initial ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.kernel import arithmetic

PyTree = Any


def shrink_and_perturb(
    params: PyTree,
    key: jax.Array | None = None,
    *,
    shrink: float = 0.4,
    perturb: float = 0.1,
    fresh: PyTree | None = None,
) -> PyTree:
    """θ ← shrink · θ + perturb · θ₀, with newly initialised parameters θ₀.

    Ash and Adams, On Warm-Starting Neural Network Training, 2020. It changes the function. Reset
    the optimizer's moments, because they belong to the old parameters.

    Args:
      params: the parameters θ, a pytree of arrays.
      key: a random key, needed without `fresh`.
      shrink, perturb: λ and γ of the paper, 0 or more.
      fresh: the initial parameters θ₀. Without it, θ₀ is normal with the leaf's root mean square,
        and leaves with fewer than two axes (biases, norms) do not change.

    Returns:
      A tree like `params`, with the same dtypes.

    Raises:
      ValueError: a negative factor, or neither `key` nor `fresh`.
      GrowthError: `fresh` has other leaves or shapes.

    >>> import jax.numpy as jnp
    >>> shrink_and_perturb({"w": jnp.ones(2)}, shrink=0.5, perturb=2.0, fresh={"w": jnp.ones(2)})
    {'w': Array([2.5, 2.5], dtype=float32)}
    """
    if shrink < 0 or perturb < 0:
        raise ValueError(f"shrink={shrink} and perturb={perturb} must be 0 or more")
    if fresh is None and key is None:
        raise ValueError("pass key=jax.random.key(0), or fresh=… initial parameters")
    new = None if fresh is None else named_leaves(fresh)
    for name, leaf in named_leaves(params).items():
        if new is not None and (name not in new or jnp.shape(new[name]) != jnp.shape(leaf)):
            have = jnp.shape(new[name]) if name in new else "nothing"
            raise GrowthError(
                f"{name} has shape {jnp.shape(leaf)} and {have} in the fresh parameters",
                params=[name],
                hint="initialise the same model",
            )

    def one(path, w):
        if not jnp.issubdtype(w.dtype, jnp.inexact):
            return w
        wide = arithmetic(w.dtype)
        old = w.astype(wide)
        if new is not None:
            drawn = new[path_name(path)].astype(wide)
        elif w.ndim < 2:
            return w
        else:
            assert key is not None
            own = jax.random.fold_in(key, names[path_name(path)])
            rms = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(old)))).astype(wide)
            drawn = rms * jax.random.normal(own, w.shape, wide)
        return (jnp.asarray(shrink, wide) * old + jnp.asarray(perturb, wide) * drawn).astype(
            w.dtype
        )

    names = {name: i for i, name in enumerate(named_leaves(params))}
    return jax.tree_util.tree_map_with_path(one, params)
