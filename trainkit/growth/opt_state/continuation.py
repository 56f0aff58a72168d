"""What a plan does for a run that goes on: its optimizer state, and exact continuation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.apply import run_on_device, small_tree
from trainkit.growth.opt_state.exact import Anneal
from trainkit.growth.opt_state.exact import exact as follow
from trainkit.growth.opt_state.grow import grow_opt_state as grow_state
from trainkit.growth.opt_state.slots import Slots
from trainkit.growth.plan.data import Plan, Symmetry
from trainkit.growth.plan.upcycling import lifted, lifted_state
from trainkit.growth.plan.validation import check_params, check_shapes, check_tx
from trainkit.packed import unpack_all

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
    donate: bool,
    out_shardings: Any,
) -> PyTree:
    """See `Plan.grow_opt_state`."""
    check_tx(tx)
    maps = plan.realise(key, symmetry)
    if params is not None:
        check_params(plan, _trained(params))
    if grown_params is not None:
        shapes = {leaf.path: tuple(leaf.big) for leaf in plan.leaves}
        hint = "pass what plan.grow gave"
        check_shapes(_trained(grown_params), shapes, "grown_params", hint)
    if params is None:
        if symmetry in ("noise", "zero_out") and grown_params is None:
            raise GrowthError(
                f"symmetry={symmetry!r} adds random values whose size is the parameters' own",
                hint="pass params=… (the small ones) as well",
            )
        params = _tree_of(plan, opt_state)
    if grown_params is None:
        grown_params = plan.grow(params, key=key, symmetry=symmetry)

    def run(opt_state: PyTree, params: PyTree, grown_params: PyTree) -> PyTree:
        if plan.depth == "experts" and reset is not True:
            opt_state = lifted_state(tx, opt_state, params, maps, plan.origin)
            params = lifted(params, maps, plan.origin)
        return grow_state(
            tx,
            opt_state,
            maps,
            params,
            grown_params,
            origin=plan.origin,
            slots=slots,
            reset=reset,
        )

    spent = opt_state if donate else None
    return run_on_device(run, (opt_state, params, grown_params), out_shardings, spent)


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
            hint="take 'uneven', 'even', 'noise' or 'zero_out', or train on with the plain rule",
        )
    check_tx(tx)
    small = None
    if plan.depth is not None:
        shape = lambda leaf: jax.ShapeDtypeStruct(leaf.small, leaf.dtype)
        small = small_tree(plan, {name: shape(leaf) for name, leaf in plan.old.items()})
    maps = plan.realise(key, symmetry)
    return follow(tx, maps, small, anneal=anneal, origin=plan.origin, slots=slots)


def _trained(params: PyTree) -> PyTree:
    params = unpack_all(params)
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def _tree_of(plan: Plan, opt_state: PyTree) -> PyTree:
    """Zeros in the tree that the plan was made for: a slot of the state shows which it is."""
    shapes = {name: tuple(leaf.small) for name, leaf in plan.old.items()}
    dtypes = {name: leaf.dtype for name, leaf in plan.old.items()}
    zeros = {name: jnp.zeros(shape, dtypes[name]) for name, shape in shapes.items()}
    if plan.depth is not None and plan.trees is not None:
        return small_tree(plan, zeros)
    found: list[PyTree] = []

    def look(node: PyTree) -> bool:
        if not found:
            leaves = named_leaves(node)
            if {name: tuple(jnp.shape(leaf)) for name, leaf in leaves.items()} == shapes:
                found.append(node)
        return bool(found)

    jax.tree.flatten(opt_state, is_leaf=look)
    if found:
        return jax.tree_util.tree_map_with_path(lambda at, _: zeros[path_name(at)], found[0])
    tree: dict[str, Any] = {}
    for path, value in zeros.items():
        node, (*parents, last) = tree, path.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
