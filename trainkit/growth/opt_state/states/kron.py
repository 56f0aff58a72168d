"""Kron's state: a momentum, and for each axis a factor Q of the preconditioner P = QᵀQ.

P whitens gradients, so it goes with the inverse of their scale. Between the directions of copies
the P of an axis is that of the small model over the lengths of these directions, and Q′ the
Cholesky factor of it; where the lengths are unequal, each side has the root of its own. Differences
between copies, and new units, have the mean of P. A diagonal P is over the factors on the gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.algebra import expand, fold
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.states import covariances

Matrices = tuple[Any, ...]


def _check(found: Matrices, wanted: Matrices, here: str) -> None:
    for a, (q, after) in enumerate(zip(found, wanted, strict=True)):
        if q is None or after is None:
            raise GrowthError(
                f"{here}: the growth of stacked factors (one for each layer) is not supported",
                hint="grow with reset=True",
            )
        if q.ndim != len(after.shape):
            raise GrowthError(
                f"{here}: the factor of axis {a} is diagonal only before or only after growth (an "
                "axis of size 1, or one that exceeds max_precond_dim)",
                hint="grow with reset=True, or raise max_precond_dim",
            )


def _grow(
    values: list[jax.Array], matrices: list[Matrices], growth: LeafMap, shape: tuple[int, ...]
) -> tuple[list[jax.Array], list[Matrices]]:
    factors = _scaled(matrices[0], abs(growth.gradient) ** -0.5)
    for a, along in enumerate(growth.axes):
        if along is not None:
            factors[a] = (_longer if factors[a].ndim == 1 else _wider)(factors[a], along)
    return [expand(values[0], growth, gradient=1)], [tuple(factors)]


def _fold(
    values: list[jax.Array], matrices: list[Matrices], growth: LeafMap, shape: tuple[int, ...]
) -> tuple[list[jax.Array], list[Matrices]]:
    factors = _scaled(matrices[0], abs(growth.gradient) ** 0.5)
    for a, along in enumerate(growth.axes):
        if along is not None:
            back = _shorter if factors[a].ndim == 1 else _narrower
            factors[a] = back(factors[a], along, shape[a])
    return [fold(values[0], growth, shape, gradient=1)], [tuple(factors)]


def _scaled(factors: Matrices, scale: float) -> list[jax.Array]:
    """The factors, the first one times the factor of the whole leaf (1 where that is 0)."""
    first, *rest = factors
    return [first * jnp.asarray(scale if np.isfinite(scale) else 1.0, first.dtype), *rest]


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision="highest")


def _wider(q: jax.Array, along: AxisMap) -> jax.Array:
    columns, lengths = (jnp.asarray(x, q.dtype) for x in covariances.copies(along, len(q)))
    inner = _dot(q.T, q) / jnp.sqrt(lengths[:, None] * lengths)
    rest = jnp.eye(len(columns), dtype=q.dtype) - _dot(columns, columns.T)
    whole = _dot(_dot(columns, inner), columns.T) + jnp.mean(jnp.diagonal(inner)) * rest
    return jnp.linalg.cholesky(whole).T


def _narrower(q: jax.Array, along: AxisMap, n: int) -> jax.Array:
    columns, lengths = (jnp.asarray(x, q.dtype) for x in covariances.copies(along, n))
    turned = _dot(q, columns)
    return jnp.linalg.cholesky(_dot(turned.T, turned) * jnp.sqrt(lengths[:, None] * lengths)).T


def _weights(along: AxisMap) -> tuple[np.ndarray, np.ndarray]:
    """The old unit of each unit that has a gradient, and its factor on it."""
    some = (along.source >= 0) & (along.gradient != 0)
    return some, np.where(some, np.abs(along.gradient), 1.0)


def _longer(q: jax.Array, along: AxisMap) -> jax.Array:
    some, f = _weights(along)
    power = jnp.square(q)[jnp.asarray(np.where(some, along.source, 0))] / jnp.asarray(f, q.dtype)
    return jnp.sqrt(jnp.where(jnp.asarray(some), power, jnp.mean(jnp.square(q))))


def _shorter(q: jax.Array, along: AxisMap, n: int) -> jax.Array:
    some, f = _weights(along)
    of = np.where(some[:, None], along.source[:, None] == np.arange(n), 0) * f[:, None]
    share = of / np.maximum((of > 0).sum(0), 1)
    return jnp.sqrt(_dot(jnp.square(q), jnp.asarray(share, q.dtype)))


# The `KronState` of the other model.
change = functools.partial(
    covariances.change,
    moments=("mu",),
    matrices=("factors",),
    moves=(_grow, _fold),
    check=_check,
)
