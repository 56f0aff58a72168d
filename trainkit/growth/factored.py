"""The states that do not keep one number an entry: Adafactor's rows and columns, SM3's covers.

Both are grown through the full second moment that they stand for: rebuilt, grown by f², and reduced
again in the layout that the grown leaf has (which axes are factored depends on sizes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth import rotated
from trainkit.growth.calculus import expand, fold
from trainkit.growth.errors import GrowthError
from trainkit.growth.leaf import LeafGrowth
from trainkit.growth.paths import named_leaves, path_name

PyTree = Any


def is_special(state: Any) -> bool:
    """Whether a state is handled here rather than slot by slot."""
    names = ("FactoredState", "ScaleBySM3State", "GaLoreState", "SoapState")
    return type(state).__name__ in names


class Regrow:
    """Grows the state of `scale_by_factored_rms`, `scale_by_sm3` and `galore`."""

    def __init__(self, context: Any, patterns: Sequence[re.Pattern[str]] = ()):
        self._context, self._patterns = context, patterns

    def handles(self, state: Any) -> bool:
        return is_special(state)

    def __call__(self, state: Any, template: Any, where: str) -> Any:
        if type(state).__name__ == "GaLoreState":
            raise GrowthError(
                f"{where}: GaLore keeps its moments in a basis of the old gradients' singular "
                "vectors, which says nothing about new units. Grow with reset=True: its "
                "projections are recomputed at its next refresh anyway."
            )
        if type(state).__name__ == "FactoredState":
            return self._factored(state, template, where)
        if type(state).__name__ == "SoapState":
            return self._soap(state, template, where)
        return self._sm3(state, template, where)

    def _soap(self, state: Any, template: Any, where: str) -> Any:
        return rotated.regrow(self._context, state, template, where)

    # What a subclass turns round.

    def _source(self, leaf: str) -> tuple[str | None, bool]:
        come = self._context.origin(leaf)
        return come.leaf, come.new

    def _shape(self, leaf: str, old: str) -> tuple[int, ...]:
        return self._context.shapes[old]

    def _how(self, leaf: str) -> LeafGrowth | None:
        return self._context.growth(leaf)

    def _target(self, leaf: str) -> tuple[int, ...]:
        return ()

    def _map(
        self,
        x: jax.Array,
        leaf: str,
        where: str,
        how: LeafGrowth | None,
        shape: tuple[int, ...],
        degree: int = 2,
    ) -> jax.Array:
        if how is None:
            return x
        return expand(x, how, gradient=degree, new="mean" if degree else "zero", what=where)

    def _reset(self, leaf: str) -> bool:
        return any(pattern.search(leaf) for pattern in self._patterns)

    def _factored(self, state: Any, template: Any, where: str) -> Any:
        rows, cols, full = (named_leaves(t) for t in (state.v_row, state.v_col, state.v))
        target = {f: named_leaves(getattr(template, f)) for f in ("v_row", "v_col", "v")}
        out: dict[str, dict[str, jax.Array]] = {"v_row": {}, "v_col": {}, "v": {}}
        for leaf, spec in target["v"].items():
            here = f"{where}: slot of {leaf!r}"
            old, new_layer = self._source(leaf)
            row, col, v = target["v_row"][leaf], target["v_col"][leaf], spec
            if old is None:
                guess = [jnp.mean(x) for x in rows.values()] or [jnp.zeros(())]
                for name, t in zip(out, (row, col, v), strict=True):
                    out[name][leaf] = jnp.full(t.shape, sum(guess) / len(guess), t.dtype)
                continue
            del new_layer  # a new layer starts from its neighbour's second moment
            shape = self._shape(leaf, old)
            nu = _rebuild(rows[old], cols[old], full[old], shape, here)
            nu = self._map(nu, leaf, here, self._how(leaf), self._target(leaf))
            if self._reset(leaf):
                nu = jnp.full_like(nu, jnp.mean(nu))
            placeholder = jnp.zeros((1,), v.dtype)
            if v.shape == nu.shape:
                parts = (placeholder, placeholder, nu)
            else:
                d1, d0 = _factored_axes(nu.shape)
                parts = (jnp.mean(nu, d0), jnp.mean(nu, d1), placeholder)
            for name, part, t in zip(out, parts, (row, col, v), strict=True):
                if part.shape != t.shape:
                    raise GrowthError(f"{here}.{name} grows to {part.shape}, not {t.shape}")
                out[name][leaf] = part.astype(t.dtype)
        trees = {
            f: jax.tree_util.tree_map_with_path(
                lambda path, _, f=f: out[f][path_name(path)], getattr(template, f)
            )
            for f in out
        }
        return state._replace(**trees)

    def _sm3(self, state: Any, template: Any, where: str) -> Any:
        covers, momenta = named_leaves(state.mu), named_leaves(state.nu)
        nus, mus = {}, {}
        for leaf, spec in named_leaves(template.nu).items():
            here = f"{where}: slot of {leaf!r}"
            old, new_layer = self._source(leaf)
            if old is None:
                raise GrowthError(f"{here}: SM3 has nothing to start a new leaf from")
            momentum = self._map(momenta[old], leaf, here, self._how(leaf), spec.shape, degree=0)
            forgotten = new_layer or self._reset(leaf)
            nus[leaf] = jnp.zeros_like(momentum) if forgotten else momentum
            for i in range(len(spec.shape)):
                cover = covers[_part(old, i)]
                cover = self._map(
                    jnp.reshape(cover, -1),
                    leaf,
                    here,
                    _cover(self._how(leaf), i),
                    spec.shape[i:][:1],
                )
                mus[_part(leaf, i)] = jnp.full_like(cover, jnp.mean(cover)) if forgotten else cover
        return state._replace(
            mu=jax.tree_util.tree_map_with_path(
                lambda path, spec: jnp.reshape(mus[path_name(path)], spec.shape), template.mu
            ),
            nu=jax.tree_util.tree_map_with_path(lambda path, _: nus[path_name(path)], template.nu),
        )


class Refold(Regrow):
    """The inverse. It loses nothing where both sides are factored, or neither is."""

    def __init__(self, context: Any, back: Mapping[str | None, str]):
        super().__init__(context)
        self._back = back

    def _soap(self, state: Any, template: Any, where: str) -> Any:
        return rotated.refold(self._context, self._back, state, template, where)

    def _source(self, leaf: str) -> tuple[str | None, bool]:
        return self._back[leaf], False

    def _shape(self, leaf: str, old: str) -> tuple[int, ...]:
        shape = self._context.shapes[leaf]
        how = self._context.growth(old)
        if how is None:
            return shape
        return tuple(
            n if along is None else len(along.source)
            for n, along in zip(shape, how.axes, strict=True)
        )

    def _factored(self, state: Any, template: Any, where: str) -> Any:
        held, wanted = named_leaves(state.v), named_leaves(template.v)
        for leaf, spec in wanted.items():
            big = self._back[leaf]
            shape, grown = self._context.shapes[leaf], self._shape(leaf, big)
            if spec.shape != shape and set(_factored_axes(shape)) != set(_factored_axes(grown)):
                raise GrowthError(
                    f"{where}: the second moment of {leaf!r} is factored along its two largest "
                    f"axes, which are others at {grown} than at {shape}, so nothing exact can go "
                    "back. Set min_dim_size_to_factor above both, or reshape the leaf to a matrix."
                )
            if spec.shape == shape and held[big].shape != grown:
                raise GrowthError(
                    f"{where}: the second moment of {leaf!r} is kept whole at {spec.shape}, but as "
                    f"rows and columns at {grown}, so nothing exact can go back. "
                    "Set min_dim_size_to_factor so that both sizes are treated alike."
                )
        return super()._factored(state, template, where)

    def _how(self, leaf: str) -> LeafGrowth | None:
        return self._context.growth(self._back[leaf])

    def _target(self, leaf: str) -> tuple[int, ...]:
        return self._context.shapes[leaf]

    def _map(
        self,
        x: jax.Array,
        leaf: str,
        where: str,
        how: LeafGrowth | None,
        shape: tuple[int, ...],
        degree: int = 2,
    ) -> jax.Array:
        if how is None:
            return x
        return fold(x, how, shape, gradient=degree, what=where)


def _part(leaf: str, axis: int) -> str:
    return f"{leaf}/{axis}" if leaf else str(axis)


def _cover(how: LeafGrowth | None, axis: int) -> LeafGrowth | None:
    """How the greatest entries along one axis grow: the other axes contribute their largest f."""
    if how is None:
        return None
    others = [a for i, a in enumerate(how.axes) if i != axis and a is not None]
    largest = float(np.prod([np.abs(a.gradient[np.asarray(a.source) >= 0]).max() for a in others]))
    return how._replace(axes=(how.axes[axis],), gradient=how.gradient * largest)


def _factored_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """The second largest and the largest axis, as Optax orders ties."""
    order = np.argsort(shape)
    return int(order[-2]), int(order[-1])


def _is_factored(row: Any, col: Any, shape: tuple[int, ...]) -> bool:
    if len(shape) < 2:
        return False
    d1, d0 = _factored_axes(shape)
    without = lambda d: shape[:d] + shape[d + 1 :]
    return row.shape == without(d0) and col.shape == without(d1)


def _rebuild(
    row: jax.Array, col: jax.Array, v: jax.Array, shape: tuple[int, ...], where: str
) -> jax.Array:
    """ν = row ⊗ column / mean(row), as Adafactor itself uses it; or ν where it is kept whole."""
    if v.shape == shape:
        return v
    if not _is_factored(row, col, shape):
        raise GrowthError(
            f"{where} holds rows {row.shape}, columns {col.shape} and entries {v.shape}, which is "
            f"neither a factored nor a full second moment of a leaf of shape {shape}"
        )
    d1, d0 = _factored_axes(shape)
    reduced = d1 - 1 if d1 > d0 else d1
    mean = jnp.mean(row, axis=reduced, keepdims=True)
    safe = jnp.where(mean > 0, mean, jnp.ones_like(mean))
    return jnp.expand_dims(row / safe, d0) * jnp.expand_dims(col, d1)
