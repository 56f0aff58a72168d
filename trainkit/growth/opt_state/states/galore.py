"""GaLore's state: a projection to a few directions, and the moments of the projected gradient.

The gradient of a matrix grows by G′ = A G Bᵀ, where A and B copy and scale. GaLore stores r
orthonormal directions P of one side (say, that of A) and the moments of PᵀG. Suppose that the
gradients of all copies of a unit on that side have the same norm, Σ f² = a². Then AᵀA = a²·1, so
P′ = A P / a is orthonormal, spans the same space as the singular vectors of G′, and

    P′ᵀ G′ = a · (Pᵀ G) Bᵀ,    with a = √k · f for k even copies.

So the moments are those of a matrix of r rows whose gradient grows by a, and by B along its
columns. Without such an a, the directions A P are not orthogonal, and the moments in an orthonormal
basis cannot be computed from those that are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.directions import Contract, Direction

HINT = "grow with reset=True (projections are recomputed at the next refresh anyway)"


class _Side(NamedTuple):
    """The projected axis of a matrix, and the number of directions."""

    axis: int
    rank: int


def change(
    direction: Direction,
    state: Any,
    template: Any,
    where: str,
    _: Any,
    traverse: Callable[[Direction, Any, Any, str], Any],
) -> Any:
    """The `GaLoreState` of the other model."""
    held, wanted = named_leaves(state.projector), named_leaves(template.projector)
    out: dict[str, jax.Array] = {}
    leaves, shapes = dict(direction.growth.leaves), dict(direction.shapes)
    down = isinstance(direction, Contract)
    for leaf, spec in wanted.items():
        here = f"{where}: slot of {leaf!r}"
        origin, how = direction.source(leaf), direction.how(leaf)
        if origin.leaf is None or origin.new:
            raise GrowthError(f"{here}: GaLore has no projection for a new leaf", hint=HINT)
        p = held[origin.leaf]
        if how is None or not p.size:
            out[leaf] = p
            continue
        sides = [
            _side(shape, q.shape, here)
            for shape, q in ((direction.before(leaf), p), (direction.after(leaf), spec))
        ]
        small, big = sides[::-1] if down else sides
        if small.axis != big.axis:
            raise GrowthError(
                f"{here}: GaLore projects the longer side of a matrix, which differs between "
                f"{direction.before(leaf)} and {direction.after(leaf)}",
                hint=HINT,
            )
        size = direction.small(leaf)[small.axis]
        factor = _isometry(how.axes[small.axis], size, here)
        out[leaf] = _directions(direction, p, how, small, big, factor, spec.shape)
        inside, shape = _proxy(how, small, big, factor, direction.small(leaf))
        names = (leaf, origin.leaf) if down else (origin.leaf, leaf)
        shapes[names[0]], leaves[names[1]] = shape, inside
    inner = traverse(
        direction.inside(leaves, shapes),
        state.base_optimizer_state,
        template.base_optimizer_state,
        f"{where}.base_optimizer_state",
    )
    projector = jax.tree_util.tree_map_with_path(
        lambda path, _: out[path_name(path)], template.projector
    )
    return state._replace(projector=projector, base_optimizer_state=inner)


def _side(shape: tuple[int, ...], projector: tuple[int, ...], here: str) -> _Side:
    if len(shape) != 2:
        raise GrowthError(
            f"{here}: a leaf of shape {shape} is projected as a matrix, but the state does not say "
            "which axes are its rows",
            hint=HINT,
        )
    return _Side(0 if shape[0] >= shape[1] else 1, projector[1])


def _isometry(along: AxisMap | None, n: int, here: str) -> float:
    """a, if the gradients of the copies of each unit have the same norm.

    Raises:
      GrowthError: they have different norms.
    """
    if along is None:
        return 1.0
    old = along.source >= 0
    squares = np.bincount(along.source[old], along.gradient[old] ** 2, n)
    if not np.allclose(squares, squares[0], rtol=1e-9) or not squares[0]:
        raise GrowthError(
            f"{here}: GaLore's projection stays orthogonal only if all units of the projected axis "
            "have the same number of copies with even shares",
            hint=f'grow to a multiple with how="even", or {HINT}',
        )
    return float(np.sqrt(squares[0]))


def _directions(
    direction: Direction,
    p: jax.Array,
    how: LeafMap,
    small: _Side,
    big: _Side,
    factor: float,
    shape: tuple[int, ...],
) -> jax.Array:
    one = LeafMap((how.axes[small.axis], None), gradient=1.0 / factor)
    if isinstance(direction, Contract):
        return direction.linear(p[:, : small.rank], one, shape, gradient=1)
    p = direction.linear(p, one, shape, gradient=1)
    if big.rank == small.rank:
        return p
    # Any directions orthogonal to these will do, because past gradients have no component there.
    eye = jnp.eye(p.shape[0], dtype=p.dtype)
    more = jnp.linalg.qr(jnp.concatenate([p, eye], 1))[0]
    return jnp.concatenate([p, more[:, small.rank : big.rank]], 1)


def _proxy(
    how: LeafMap, small: _Side, big: _Side, factor: float, shape: tuple[int, ...]
) -> tuple[LeafMap, tuple[int, ...]]:
    """The map of the projected gradient, and its shape in the small model."""
    n, m = small.rank, big.rank
    along = None
    if n != m:
        at = np.arange(m)
        along = AxisMap(np.where(at < n, at, -1), np.ones(m), np.ones(m))
    axes = [along, how.axes[1]] if small.axis == 0 else [how.axes[0], along]
    sizes = (n, shape[1]) if small.axis == 0 else (shape[0], n)
    # It has no weight factor, because a projected state holds no copies of parameters.
    return LeafMap(tuple(axes), gradient=how.gradient * factor), sizes
