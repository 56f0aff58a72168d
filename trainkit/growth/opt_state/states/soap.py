"""SOAP's state: covariances, their eigenbases, and a second moment in these bases.

The grown gradient is G′ = D_f P G Qᵀ D_f, with P and Q copying units and D_f the gradient factors.
A left singular vector u of G becomes D_f P u, normalised. Differences between copies are further
directions. They have no gradient while copies are equal, so they come last in the basis, with the
mean of ν as second moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.algebra import expand, fold, norm_factor
from trainkit.growth.maps.leaf_map import LeafMap
from trainkit.growth.opt_state.directions import Contract, Direction

Matrices = tuple[Any, ...]


def change(
    direction: Direction,
    state: Any,
    template: Any,
    where: str,
    is_reset: Callable[[str], bool],
    _: Any,
) -> Any:
    """The `SoapState` of the other model (contracted, up to the signs of eigenvectors)."""
    held = [named_leaves(t) for t in (state.mu, state.nu, state.gg, state.basis)]
    out: list[dict[str, Any]] = [{}, {}, {}, {}]
    wanted = named_leaves(template.gg)
    move = _fold if isinstance(direction, Contract) else _grow
    for leaf, spec in named_leaves(template.mu).items():
        old, fresh = direction.source(leaf)
        here = f"{where}: slot of {leaf!r}"
        if old is None:
            raise GrowthError(f"{here}: SOAP has no old layer to initialise a new leaf from")
        pick = lambda slot, axis, old=old: slot.get(_part(old, axis))
        rank = len(spec.shape)
        values = [held[0][old], held[1][old]]
        matrices = [tuple(pick(slot, a) for a in range(rank)) for slot in held[2:]]
        if any(m is not None and m.ndim != 2 for m in matrices[0]):
            raise GrowthError(
                f"{here}: the growth of stacked bases (one for each layer) is not supported",
                hint="grow with reset=True",
            )
        for a in range(rank):
            if (matrices[0][a] is None) != (_part(leaf, a) not in wanted):
                raise GrowthError(
                    f"{here}: axis {a} has a basis only before or only after growth (an axis of "
                    "size 1, or one that exceeds max_precond_dim)",
                    hint="grow with reset=True, or raise max_precond_dim",
                )
        growth = direction.how(leaf)
        direction.check(leaf, values[0], here)
        if growth is not None:
            values, matrices = move(values, matrices, growth, direction.small(leaf))
        reset = fresh or is_reset(leaf)
        out[0][leaf] = jnp.zeros_like(values[0]) if reset else values[0]
        out[1][leaf] = jnp.full_like(values[1], jnp.mean(values[1])) if reset else values[1]
        for slot, found in zip(out[2:], matrices, strict=True):
            slot |= {_part(leaf, a): m for a, m in enumerate(found) if m is not None}
    trees = {
        field: jax.tree_util.tree_map_with_path(
            lambda path, spec, slot=slot: slot[path_name(path)].astype(spec.dtype),
            getattr(template, field),
        )
        for field, slot in zip(("mu", "nu", "gg", "basis"), out, strict=True)
    }
    return state._replace(**trees)


def _part(leaf: str, axis: int) -> str:
    return f"{leaf}/{axis}" if leaf else str(axis)


def _axis(growth: LeafMap, axis: int, scale: float = 1.0) -> LeafMap:
    return LeafMap((growth.axes[axis],), gradient=scale)


def _norms(growth: LeafMap, shape: tuple[int, ...]) -> list[float]:
    ones = [growth._replace(axes=(a,), gradient=1.0) for a in growth.axes]
    return [norm_factor(g, (n,), "gradient") for g, n in zip(ones, shape, strict=True)]


def _grow(
    values: list[jax.Array], matrices: list[Matrices], growth: LeafMap, shape: tuple[int, ...]
) -> tuple[list[jax.Array], list[Matrices]]:
    mu = expand(values[0], growth, gradient=1)
    nu, norms = values[1], _norms(growth, shape)
    gg, basis = list(matrices[0]), list(matrices[1])
    for a, along in enumerate(growth.axes):
        others = growth.gradient * float(np.prod([n for b, n in enumerate(norms) if b != a]))
        if gg[a] is None:
            lone = [along if b == a else None for b in range(len(shape))]
            nu = expand(nu, LeafMap(tuple(lone)), gradient=2, new="mean")
            continue
        if along is None:
            gg[a] = gg[a] * jnp.asarray(others**2, gg[a].dtype)
            continue
        one = LeafMap((along, along))
        new = np.asarray(along.source) < 0
        spread = jnp.mean(jnp.diagonal(gg[a])) * jnp.asarray(np.diag(new), gg[a].dtype)
        gg[a] = (expand(gg[a], one, gradient=1) + spread) * jnp.asarray(others**2, gg[a].dtype)
        columns = expand(basis[a], LeafMap((along, None)), gradient=1)
        eye = jnp.eye(columns.shape[0], dtype=columns.dtype)
        basis[a] = jnp.linalg.qr(jnp.concatenate([columns, eye], 1))[0]
        extra = columns.shape[0] - columns.shape[1]
        nu = nu * jnp.asarray(norms[a] ** 2, nu.dtype)
        mean = jnp.mean(nu, axis=a, keepdims=True)
        nu = jnp.concatenate([nu, jnp.repeat(mean, extra, axis=a)], axis=a)
    return [mu, nu * jnp.asarray(growth.gradient**2, nu.dtype)], [tuple(gg), tuple(basis)]


def _fold(
    values: list[jax.Array], matrices: list[Matrices], growth: LeafMap, shape: tuple[int, ...]
) -> tuple[list[jax.Array], list[Matrices]]:
    mu = fold(values[0], growth, shape, gradient=1)
    nu, norms = values[1], _norms(growth, shape)
    gg, basis = list(matrices[0]), list(matrices[1])
    for a, along in enumerate(growth.axes):
        n = shape[a]
        others = growth.gradient * float(np.prod([x for b, x in enumerate(norms) if b != a]))
        if gg[a] is None:
            lone = LeafMap(tuple(along if b == a else None for b in range(len(shape))))
            size = [*nu.shape[:a], n, *nu.shape[a + 1 :]]
            nu = fold(nu, lone, tuple(size), gradient=2)
            continue
        gg[a] = gg[a] / jnp.asarray(others**2, gg[a].dtype)
        if along is None:
            continue
        gg[a] = fold(gg[a], LeafMap((along, along)), (n, n), gradient=1)
        columns = basis[a][:, :n]
        rows = fold(columns, LeafMap((along, None)), (n, n), gradient=1)
        basis[a] = jnp.linalg.qr(rows)[0]
        nu = jax.lax.slice_in_dim(nu, 0, n, axis=a) / jnp.asarray(norms[a] ** 2, nu.dtype)
    return [mu, nu / jnp.asarray(growth.gradient**2, nu.dtype)], [tuple(gg), tuple(basis)]
