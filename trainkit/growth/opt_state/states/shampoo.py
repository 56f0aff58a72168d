"""Shampoo's state: covariances of each axis, and inverse roots of what they were at a refresh.

The covariance of the grown gradients is A L Aᵀ, times the factors of the other axes, with A copying
units by their factors on the gradient. Its inverse root is that of L between the directions of the
copies where all of these have one length, as in a growth by even copies; where they have not, each
side is scaled by its length, until the next refresh. Differences between copies, and new units,
have the mean of the root.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.maps.algebra import expand, fold
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.states import covariances

Matrices = tuple[Any, ...]


def _grow(
    values: list[jax.Array], matrices: list[Matrices], growth: LeafMap, shape: tuple[int, ...]
) -> tuple[list[jax.Array], list[Matrices]]:
    mu, *nu = values
    values = [expand(mu, growth, gradient=1)]
    values += [expand(v, growth, gradient=2, new="mean") for v in nu]
    gg, roots, power = *map(list, matrices), _power(matrices[0])
    for a, (along, rest) in enumerate(
        zip(growth.axes, covariances.others(growth, shape), strict=True)
    ):
        if gg[a] is None:
            continue
        gg[a] = covariances.grown(gg[a], along, rest)
        roots[a] = _grown_root(roots[a], along, power) * jnp.asarray(rest**power, gg[a].dtype)
    return values, [tuple(gg), tuple(roots)]


def _fold(
    values: list[jax.Array], matrices: list[Matrices], growth: LeafMap, shape: tuple[int, ...]
) -> tuple[list[jax.Array], list[Matrices]]:
    mu, *nu = values
    values = [fold(mu, growth, shape, gradient=1)]
    values += [fold(v, growth, shape, gradient=2) for v in nu]
    gg, roots, power = *map(list, matrices), _power(matrices[0])
    for a, (along, rest) in enumerate(
        zip(growth.axes, covariances.others(growth, shape), strict=True)
    ):
        if gg[a] is None:
            continue
        gg[a] = covariances.folded(gg[a], along, rest, shape[a])
        own = roots[a] / jnp.asarray(rest**power, gg[a].dtype)
        roots[a] = _folded_root(own, along, power, shape[a])
    return values, [tuple(gg), tuple(roots)]


def _power(gg: Matrices) -> float:
    """The power of the gradient's scale in a root of one of k axes: −2/(2k)."""
    return -1 / max(sum(m is not None for m in gg), 1)


def _grown_root(root: jax.Array, along: AxisMap | None, power: float) -> jax.Array:
    if along is None:
        return root
    q, lengths = _columns(along, root.shape[0], root.dtype)
    half = lengths ** (power / 2)
    inner = half[:, None] * root * half
    dot = lambda x, y: jnp.matmul(x, y, precision="highest")
    rest = jnp.eye(q.shape[0], dtype=q.dtype) - dot(q, q.T)
    return dot(dot(q, inner), q.T) + jnp.mean(jnp.diagonal(inner)) * rest


def _folded_root(root: jax.Array, along: AxisMap | None, power: float, n: int) -> jax.Array:
    if along is None:
        return root
    q, lengths = _columns(along, n, root.dtype)
    half = lengths ** (power / 2)
    inner = jnp.matmul(jnp.matmul(q.T, root, precision="highest"), q, precision="highest")
    return inner / half[:, None] / half


def _columns(along: AxisMap, n: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """The directions of the copies and their lengths, as arrays."""
    q, lengths = covariances.copies(along, n)
    return jnp.asarray(np.asarray(q), dtype), jnp.asarray(lengths, dtype)


# The `ShampooState` of the other model.
change = functools.partial(
    covariances.change,
    moments=("mu", "nu"),
    matrices=("gg", "roots"),
    moves=(_grow, _fold),
)
