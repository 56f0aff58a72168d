"""What a plan does for a run that goes on: its optimizer state, and exact continuation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit.growth.blueprint import Plan, Symmetry
from trainkit.growth.errors import GrowthError
from trainkit.growth.exact import Anneal
from trainkit.growth.exact import exact as follow
from trainkit.growth.moments import grow_opt_state as grow_state
from trainkit.growth.paths import named_leaves
from trainkit.growth.slots import Slots

PyTree = Any


def grow_opt_state(
    plan: Plan,
    tx: optax.GradientTransformation,
    opt_state: PyTree,
    params: PyTree | None,
    grown_params: PyTree | None,
    key: jax.Array | None,
    symmetry: Symmetry,
    slots: Slots | None,
    reset: Any,
) -> PyTree:
    """See `Plan.grow_opt_state`."""
    if params is None:
        if symmetry in ("noise", "zero_out") and grown_params is None:
            raise GrowthError(
                f"symmetry={symmetry!r} adds random values whose size is the parameters' own",
                mend="pass params=… (the small ones) as well",
            )
        params = _tree_of(plan, opt_state)
    if grown_params is None:
        grown_params = plan.grow(params, key=key, symmetry=symmetry)
    return grow_state(
        tx,
        opt_state,
        plan.realise(key, symmetry),
        params,
        grown_params,
        slots=slots,
        reset=reset,
    )


def exact(
    plan: Plan,
    tx: optax.GradientTransformation,
    key: jax.Array | None,
    symmetry: Symmetry,
    anneal: Anneal | None,
    slots: Slots | None,
) -> optax.GradientTransformationExtraArgs:
    """See `Plan.exact`."""
    if symmetry == "rms":
        raise GrowthError(
            "symmetry='rms' changes the function, so there is no small model to follow",
            mend="take 'uneven', 'even', 'noise' or 'zero_out', or train on with the plain rule",
        )
    return follow(tx, plan.realise(key, symmetry), anneal=anneal, slots=slots)


def _tree_of(plan: Plan, opt_state: PyTree) -> PyTree:
    """Zeros in the tree that the plan was made for: a slot of the state shows which it is."""
    shapes = {leaf.path: tuple(leaf.small) for leaf in plan.leaves}
    dtypes = {leaf.path: leaf.dtype for leaf in plan.leaves}
    found: list[PyTree] = []

    def look(node: PyTree) -> bool:
        if not found:
            leaves = named_leaves(node)
            if {name: tuple(jnp.shape(leaf)) for name, leaf in leaves.items()} == shapes:
                found.append(node)
        return bool(found)

    jax.tree.flatten(opt_state, is_leaf=look)
    if found:
        names = iter(shapes)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtypes[next(names)]), found[0])
    tree: dict[str, Any] = {}
    for path, shape in shapes.items():
        node, (*parents, last) = tree, path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jnp.zeros(shape, dtypes[path])
    return tree
