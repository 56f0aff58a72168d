"""SOAP's state: covariances, their eigenbases, and a second moment in these bases.

The grown gradient is G′ = D_f P G Qᵀ D_f, with P and Q copying units and D_f the gradient factors.
A left singular vector u of G becomes D_f P u, normalised. Differences between copies are further
directions. They have no gradient while copies are equal, so they come last in the basis, with the
mean of ν as second moment.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from trainkit.growth.maps.algebra import expand, fold, norm_factor
from trainkit.growth.maps.leaf_map import LeafMap
from trainkit.growth.opt_state.states import covariances

Matrices = tuple[Any, ...]


def _norm(growth: LeafMap, axis: int, n: int) -> float:
    return norm_factor(LeafMap((growth.axes[axis],)), (n,), "gradient")


def _grow(
    values: list[jax.Array], matrices: list[Matrices], growth: LeafMap, shape: tuple[int, ...]
) -> tuple[list[jax.Array], list[Matrices]]:
    mu = expand(values[0], growth, gradient=1)
    nu, rest = values[1], covariances.others(growth, shape)
    gg, basis = list(matrices[0]), list(matrices[1])
    for a, along in enumerate(growth.axes):
        if gg[a] is None:
            lone = [along if b == a else None for b in range(len(shape))]
            nu = expand(nu, LeafMap(tuple(lone)), gradient=2, new="mean")
            continue
        gg[a] = covariances.grown(gg[a], along, rest[a])
        if along is None:
            continue
        columns = expand(basis[a], LeafMap((along, None)), gradient=1)
        eye = jnp.eye(columns.shape[0], dtype=columns.dtype)
        basis[a] = jnp.linalg.qr(jnp.concatenate([columns, eye], 1))[0]
        extra = columns.shape[0] - columns.shape[1]
        nu = nu * jnp.asarray(_norm(growth, a, shape[a]) ** 2, nu.dtype)
        mean = jnp.mean(nu, axis=a, keepdims=True)
        nu = jnp.concatenate([nu, jnp.repeat(mean, extra, axis=a)], axis=a)
    return [mu, nu * jnp.asarray(growth.gradient**2, nu.dtype)], [tuple(gg), tuple(basis)]


def _fold(
    values: list[jax.Array], matrices: list[Matrices], growth: LeafMap, shape: tuple[int, ...]
) -> tuple[list[jax.Array], list[Matrices]]:
    mu = fold(values[0], growth, shape, gradient=1)
    nu, rest = values[1], covariances.others(growth, shape)
    gg, basis = list(matrices[0]), list(matrices[1])
    for a, along in enumerate(growth.axes):
        n = shape[a]
        if gg[a] is None:
            lone = LeafMap(tuple(along if b == a else None for b in range(len(shape))))
            size = [*nu.shape[:a], n, *nu.shape[a + 1 :]]
            nu = fold(nu, lone, tuple(size), gradient=2)
            continue
        gg[a] = covariances.folded(gg[a], along, rest[a], n)
        if along is None:
            continue
        columns = basis[a][:, :n]
        rows = fold(columns, LeafMap((along, None)), (n, n), gradient=1)
        basis[a] = jnp.linalg.qr(rows)[0]
        nu = jax.lax.slice_in_dim(nu, 0, n, axis=a) / jnp.asarray(
            _norm(growth, a, n) ** 2, nu.dtype
        )
    return [mu, nu / jnp.asarray(growth.gradient**2, nu.dtype)], [tuple(gg), tuple(basis)]


# The `SoapState` of the other model (contracted, up to the signs of eigenvectors).
change = functools.partial(
    covariances.change,
    moments=("mu", "nu"),
    matrices=("gg", "basis"),
    moves=(_grow, _fold),
)
