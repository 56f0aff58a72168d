"""Dion's state: a momentum, and the factor of the last step on the side of the inputs.

The columns of this factor are directions among inputs, that of the grown gradient's step is
D_f P Q. Their lengths do not count. Where the rank grows too, further columns are 0: the QR
decomposition completes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.algebra import norm_factor
from trainkit.growth.maps.leaf_map import LeafMap
from trainkit.growth.opt_state.directions import Contract, Direction, mean_of_all


def change(
    direction: Direction,
    state: Any,
    template: Any,
    where: str,
    is_reset: Callable[[str], bool],
    _: Any,
) -> Any:
    """The `DionState` of the other model."""
    mus, nus, rights = (named_leaves(x) for x in (state.mu, state.nu, state.right_factor))
    wanted = named_leaves(template.right_factor)
    out: dict[str, dict[str, jax.Array]] = {"mu": {}, "nu": {}, "right_factor": {}}
    for leaf, spec in named_leaves(template.mu).items():
        old, fresh = direction.source(leaf)
        here = f"{where}: slot of {leaf!r}"
        if old is None:
            out["mu"][leaf] = jnp.zeros_like(spec)
            if leaf in wanted:
                out["right_factor"][leaf] = wanted[leaf]
            else:
                out["nu"][leaf] = mean_of_all(nus, spec)
            continue
        mu, how = mus[old], direction.how(leaf)
        direction.check(leaf, mu, here)
        grow = lambda x, degree, new="zero", leaf=leaf, how=how, spec=spec: (
            x
            if how is None
            else direction.linear(x, how, spec.shape, gradient=degree, new=new, what=leaf)
        )
        reset = fresh or is_reset(leaf)
        moved = grow(mu, 1)
        out["mu"][leaf] = jnp.zeros_like(moved) if reset else moved
        if leaf in wanted:
            out["right_factor"][leaf] = _right(direction, rights[old], wanted[leaf], leaf, here)
        else:
            moved = grow(nus[old], 2, "mean")
            out["nu"][leaf] = jnp.full_like(moved, jnp.mean(moved)) if reset else moved
    fill = lambda slot, like: jax.tree_util.tree_map_with_path(
        lambda path, spec: slot[path_name(path)].astype(spec.dtype), like
    )
    return state._replace(**{field: fill(out[field], getattr(template, field)) for field in out})


def _right(direction: Direction, right: jax.Array, spec: Any, leaf: str, here: str) -> jax.Array:
    """The factor with the rows of the other model, and as many columns as its rank."""
    how = direction.how(leaf)
    if right.ndim != 2:
        raise GrowthError(
            f"{here}: the growth of stacked factors (one for each layer) is not supported",
            hint="grow with reset=True",
        )
    rows, rank = spec.shape
    back, kept = isinstance(direction, Contract), min(right.shape[1], rank)
    if how is not None and how.axes[0] is not None:
        one = LeafMap((how.axes[0], None))
        size = norm_factor(LeafMap((how.axes[0],)), (direction.small(leaf)[0],), "gradient")
        right = direction.linear(right, one, (rows, right.shape[1]), gradient=1, what=here)
        right = right * jnp.asarray(size if back else 1 / size, right.dtype)
    return jnp.pad(right[:, :kept], ((0, 0), (0, rank - kept)))
