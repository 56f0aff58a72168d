"""Shrink-and-perturb: what was learned, made smaller, and something fresh."""

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
    """θ ← shrink · θ + perturb · θ₀ with θ₀ freshly initialised: what was learned stays, smaller.

    Ash and Adams 2020, On Warm-Starting Neural Network Training. It changes the function; the
    optimizer's moments belong to the old parameters, so reset them.

    Args:
      params: the parameters.
      key: a random key, needed unless `fresh` is given.
      shrink, perturb: λ and γ, 0 or more.
      fresh: freshly initialised parameters θ₀; otherwise θ₀ is normal with the leaf's own root mean
        square, and 0 for leaves of less than two axes (biases, norms), which are kept as they are.

    Returns:
      A tree like `params`.

    Raises:
      ValueError: a negative factor, or neither key nor fresh parameters.
      GrowthError: `fresh` has other leaves or shapes.

    >>> import jax.numpy as jnp
    >>> shrink_and_perturb({"w": jnp.ones(2)}, shrink=0.5, perturb=2.0, fresh={"w": jnp.ones(2)})
    {'w': Array([2.5, 2.5], dtype=float32)}
    """
    if shrink < 0 or perturb < 0:
        raise ValueError(f"shrink={shrink} and perturb={perturb} must be 0 or more")
    if fresh is None and key is None:
        raise ValueError("give key=jax.random.key(0), or fresh=… initial parameters")
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
