"""Adafactor's second moment ν, before and after growth: whole, or as means over one axis.

Growth is linear along each axis, so a mean over a grown axis is a weighted sum over the small axis,
with known weights. Rows and columns are mapped directly, and ν, their product, is not materialised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.leaf_map import LeafMap
from trainkit.growth.opt_state.directions import Contract, Direction, mean_of_all

Shape = tuple[int, ...]
FIELDS = ("v_row", "v_col", "v")


class _Second(NamedTuple):
    """ν as a product of arrays with some of its axes: ν itself, or row/mean(row) and column."""

    rank: int
    factors: tuple[tuple[jax.Array, tuple[int, ...]], ...]

    def whole(self) -> jax.Array:
        wide = [jnp.expand_dims(x, self._others(dims)) for x, dims in self.factors]
        return wide[0] * wide[1] if len(wide) > 1 else wide[0]

    def _others(self, dims: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(d for d in range(self.rank) if d not in dims)

    def over(self, axis: int, shares: np.ndarray) -> jax.Array:
        """Σ shares · ν along one axis, as a contraction, so that XLA does not materialise ν."""
        weights = jnp.asarray(shares, self.factors[0][0].dtype)
        operands = [part for x, dims in (*self.factors, (weights, (axis,))) for part in (x, dims)]
        return jnp.einsum(*operands, self._others((axis,)), precision="highest")


def change(
    direction: Direction,
    state: Any,
    template: Any,
    where: str,
    is_reset: Callable[[str], bool],
    _: Any,
) -> Any:
    """The `FactoredState` of the other model."""
    held, wanted = (
        {field: named_leaves(getattr(s, field)) for field in FIELDS} for s in (state, template)
    )
    out: dict[str, dict[str, jax.Array]] = {field: {} for field in FIELDS}
    for leaf in wanted["v"]:
        here = f"{where}: slot of {leaf!r}"
        old = direction.source(leaf).leaf  # a new layer starts from its neighbour's second moment
        specs = [wanted[field][leaf] for field in FIELDS]
        if old is None:
            whole = {n: x for n, x in held["v"].items() if x.shape == direction.shapes[n]}
            parts = [mean_of_all(held["v_row"] | whole, spec) for spec in specs]
        else:
            values = [held[field][old] for field in FIELDS]
            parts = _leaf(direction, values, specs, leaf, here)
        for field, part, spec in zip(FIELDS, parts, specs, strict=True):
            if part.shape != spec.shape:
                raise GrowthError(f"{here}.{field} becomes {part.shape}, not {spec.shape}")
            if is_reset(leaf):
                part = jnp.full_like(part, jnp.mean(part))
            out[field][leaf] = part.astype(spec.dtype)
    trees = {
        field: jax.tree_util.tree_map_with_path(
            lambda path, _, field=field: out[field][path_name(path)], getattr(template, field)
        )
        for field in FIELDS
    }
    return state._replace(**trees)


def _leaf(
    direction: Direction, values: list[jax.Array], specs: list[Any], leaf: str, here: str
) -> list[jax.Array]:
    before, after = direction.before(leaf), direction.after(leaf)
    is_whole = specs[2].shape == after
    if isinstance(direction, Contract):
        _check_back(values[2].shape == before, is_whole, before, after, here)
    how = direction.how(leaf)
    if how is None and all(x.shape == t.shape for x, t in zip(values, specs, strict=True)):
        return values
    axes = (None,) * len(after) if how is None else how.axes
    scale = 1.0 if how is None else how.gradient
    nu = _second(values, before, here)
    unused = jnp.zeros((1,), values[2].dtype)
    options: dict[str, Any] = {"gradient": 2, "new": "mean", "what": here}
    if is_whole:
        whole = direction.linear(nu.whole(), LeafMap(axes, gradient=scale), after, **options)
        return [unused, unused, whole]

    def mean_over(axis: int) -> jax.Array:
        shares = direction.shares(axes[axis], before[axis], after[axis], 2)
        others = LeafMap(axes[:axis] + axes[axis + 1 :], gradient=scale)
        left = after[:axis] + after[axis + 1 :]
        return direction.linear(nu.over(axis, shares), others, left, **options)

    d1, d0 = _factored_axes(after)
    return [mean_over(d0), mean_over(d1), unused]


def _second(values: list[jax.Array], shape: Shape, here: str) -> _Second:
    """ν = row ⊗ column / mean(row), as Adafactor uses it, or ν itself if it is not factored."""
    row, col, v = values
    if v.shape == shape:
        return _Second(len(shape), ((v, tuple(range(len(shape)))),))
    if not _is_factored(row, col, shape):
        raise GrowthError(
            f"{here} holds rows {row.shape}, columns {col.shape} and entries {v.shape}, which is "
            f"neither a factored nor a full second moment of a leaf of shape {shape}"
        )
    d1, d0 = _factored_axes(shape)
    rows, cols = (tuple(d for d in range(len(shape)) if d != over) for over in (d0, d1))
    mean = jnp.mean(row, axis=rows.index(d1), keepdims=True)
    row = row / jnp.where(mean > 0, mean, jnp.ones_like(mean))
    return _Second(len(shape), ((row, rows), (col, cols)))


def _check_back(held: bool, wanted: bool, before: Shape, after: Shape, here: str) -> None:
    if not wanted and set(_factored_axes(after)) != set(_factored_axes(before)):
        raise GrowthError(
            f"{here}: the second moment is factored along the leaf's two largest axes, which "
            f"differ between {before} and {after}, so it cannot be contracted exactly. "
            "Set min_dim_size_to_factor above both, or reshape the leaf to a matrix."
        )
    if wanted and not held:
        raise GrowthError(
            f"{here}: the second moment is whole at {after}, but factored at {before}, so it "
            "cannot be contracted exactly. "
            "Set min_dim_size_to_factor so that both sizes are treated alike."
        )


def _factored_axes(shape: Shape) -> tuple[int, int]:
    """The second largest and the largest axis, as Optax orders ties."""
    order = np.argsort(shape)
    return int(order[-2]), int(order[-1])


def _is_factored(row: Any, col: Any, shape: Shape) -> bool:
    if len(shape) < 2:
        return False
    d1, d0 = _factored_axes(shape)
    without = lambda d: shape[:d] + shape[d + 1 :]
    return row.shape == without(d0) and col.shape == without(d1)
