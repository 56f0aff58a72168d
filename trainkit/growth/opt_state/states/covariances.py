"""What the states of SOAP, Shampoo and Kron have in common: moments, and matrices for each axis.

Of SOAP and Shampoo these are a covariance of the gradients and what was made of it, of Kron a
factor of the preconditioner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.algebra import expand, fold, norm_factor
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.directions import Contract, Direction, mean_of_all

Matrices = tuple[Any, ...]
# (moments, matrices of each field, map, small shape) -> those of the other model.
Move = Callable[[list[jax.Array], list[Matrices], LeafMap, tuple[int, ...]], Any]


def change(
    direction: Direction,
    state: Any,
    template: Any,
    where: str,
    is_reset: Callable[[str], bool],
    _: Any,
    *,
    moments: Sequence[str],
    matrices: Sequence[str],
    moves: tuple[Move, Move],
    check: Callable[[Matrices, Matrices, str], None] | None = None,
) -> Any:
    """The state of the other model.

    `moments` and `matrices` name its fields: mu, and nu where there is one; for each axis a matrix,
    of which the first is the covariance. `moves` are the ways there and back. `check` refuses what
    has no way: of the matrices of a leaf, their shapes after growth, and its place. A leaf that no
    old one is like has the matrices of `template`, which then are arrays.
    """
    moments = [field for field in moments if getattr(state, field) is not None]
    held = {field: named_leaves(getattr(state, field)) for field in (*moments, *matrices)}
    out: dict[str, dict[str, Any]] = {field: {} for field in held}
    new = {field: named_leaves(getattr(template, field)) for field in matrices}
    wanted = new[matrices[0]]
    move = moves[isinstance(direction, Contract)]
    for leaf, spec in named_leaves(template.mu).items():
        old, fresh = direction.source(leaf)
        here = f"{where}: slot of {leaf!r}"
        axes = range(max(len(spec.shape), 1))  # a scalar may have a matrix, too
        if old is None:
            values = [jnp.zeros_like(spec), *(mean_of_all(held[f], spec) for f in moments[1:])]
            of_axes = [tuple(new[f].get(part(leaf, a)) for a in axes) for f in matrices]
        else:
            values = [held[field][old] for field in moments]
            of_axes = [tuple(held[f].get(part(old, a)) for a in axes) for f in matrices]
            (check or _check)(of_axes[0], tuple(wanted.get(part(leaf, a)) for a in axes), here)
            growth = direction.how(leaf)
            direction.check(leaf, values[0], here)
            if growth is not None:
                values, of_axes = move(values, of_axes, growth, direction.small(leaf))
        if fresh or is_reset(leaf):
            values = [jnp.zeros_like(values[0]), *(jnp.full_like(v, v.mean()) for v in values[1:])]
        out |= {f: out[f] | {leaf: v} for f, v in zip(moments, values, strict=True)}
        for field, found in zip(matrices, of_axes, strict=True):
            out[field] |= {part(leaf, a): m for a, m in enumerate(found) if m is not None}
    return state._replace(**{f: _like(getattr(template, f), slot) for f, slot in out.items()})


def _like(template: Any, slot: Mapping[str, Any]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, spec: slot[path_name(path)].astype(spec.dtype), template
    )


def _check(found: Matrices, wanted: Matrices, here: str) -> None:
    if any(m is not None and m.ndim != 2 for m in found):
        raise GrowthError(
            f"{here}: the growth of stacked bases (one for each layer) is not supported",
            hint="grow with reset=True",
        )
    for a, (m, after) in enumerate(zip(found, wanted, strict=True)):
        if (m is None) != (after is None):
            raise GrowthError(
                f"{here}: axis {a} has a basis only before or only after growth (an axis of "
                "size 1, or one that exceeds max_precond_dim)",
                hint="grow with reset=True, or raise max_precond_dim",
            )


def part(leaf: str, axis: int) -> str:
    """The name of the matrix of one axis."""
    return f"{leaf}/{axis}" if leaf else str(axis)


def others(growth: LeafMap, shape: tuple[int, ...]) -> list[float]:
    """For each axis, the factor on the gradient that the rest of the leaf gives."""
    ones = [growth._replace(axes=(a,), gradient=1.0) for a in growth.axes]
    norms = [norm_factor(g, (n,), "gradient") for g, n in zip(ones, shape, strict=True)]
    rest = lambda a: float(np.prod([n for b, n in enumerate(norms) if b != a]))
    return [growth.gradient * rest(a) for a in range(len(norms))]


def grown(gg: jax.Array, along: AxisMap | None, rest: float) -> jax.Array:
    """The covariance of the grown gradients; new units have the mean variance of the old ones."""
    if along is not None:
        new = np.asarray(along.source) < 0
        spread = jnp.mean(jnp.diagonal(gg)) * jnp.asarray(np.diag(new), gg.dtype)
        gg = expand(gg, LeafMap((along, along)), gradient=1) + spread
    return gg * jnp.asarray(rest**2, gg.dtype)


def folded(gg: jax.Array, along: AxisMap | None, rest: float, n: int) -> jax.Array:
    """The inverse of `grown`."""
    gg = gg / jnp.asarray(rest**2, gg.dtype)
    return gg if along is None else fold(gg, LeafMap((along, along)), (n, n), gradient=1)


def copies(along: AxisMap, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The directions that the n old units become, [n′, n], of length 1, and their lengths.

    An old unit becomes its copies, each times its factor on the gradient. Their directions are
    orthogonal, as no unit copies two.
    """
    source = np.asarray(along.source)
    columns = np.where(source[:, None] == np.arange(n), np.asarray(along.gradient)[:, None], 0.0)
    lengths = np.linalg.norm(columns, axis=0)
    lengths = np.where(lengths > 0, lengths, 1.0)
    return columns / lengths, lengths
