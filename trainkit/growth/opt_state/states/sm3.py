"""SM3's state: a momentum, and for each axis the maxima (covers) of second moments along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.maps.leaf_map import LeafMap
from trainkit.growth.opt_state.directions import Direction


def change(
    direction: Direction,
    state: Any,
    template: Any,
    where: str,
    is_reset: Callable[[str], bool],
    _: Any,
) -> Any:
    """The `ScaleBySM3State` of the other model."""
    covers, momenta = named_leaves(state.mu), named_leaves(state.nu)
    nus: dict[str, jax.Array] = {}
    mus: dict[str, jax.Array] = {}
    for leaf, spec in named_leaves(template.nu).items():
        here = f"{where}: slot of {leaf!r}"
        origin, how = direction.source(leaf), direction.how(leaf)
        if origin.leaf is None:
            nus[leaf] = jnp.zeros_like(spec)  # maxima have no count: they begin at 0
            mus |= {_part(leaf, i): jnp.zeros(n, spec.dtype) for i, n in enumerate(spec.shape)}
            continue
        reset = origin.new or is_reset(leaf)
        momentum = momenta[origin.leaf]
        direction.check(leaf, momentum, here)
        if how is not None:
            momentum = direction.linear(momentum, how, spec.shape, what=here)
        nus[leaf] = jnp.zeros_like(momentum) if reset else momentum
        for i in range(len(spec.shape)):
            cover = jnp.reshape(covers[_part(origin.leaf, i)], -1)
            if how is not None:
                size = spec.shape[i : i + 1]
                along = _cover(how, i)
                cover = direction.linear(cover, along, size, gradient=2, new="mean", what=here)
            mus[_part(leaf, i)] = jnp.full_like(cover, jnp.mean(cover)) if reset else cover
    return state._replace(
        mu=jax.tree_util.tree_map_with_path(
            lambda path, spec: jnp.reshape(mus[path_name(path)], spec.shape), template.mu
        ),
        nu=jax.tree_util.tree_map_with_path(lambda path, _: nus[path_name(path)], template.nu),
    )


def _part(leaf: str, axis: int) -> str:
    return f"{leaf}/{axis}" if leaf else str(axis)


def _cover(how: LeafMap, axis: int) -> LeafMap:
    """The map of the maxima along one axis; the other axes contribute their largest f."""
    others = [a for i, a in enumerate(how.axes) if i != axis and a is not None]
    largest = float(np.prod([np.abs(a.gradient[np.asarray(a.source) >= 0]).max() for a in others]))
    return how._replace(axes=(how.axes[axis],), gradient=how.gradient * largest)
