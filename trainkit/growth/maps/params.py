"""Growth of a parameter tree in one compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.expert_axis import lifted
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.initial import initial
from trainkit.growth.maps.leaf import grow_leaf
from trainkit.growth.plan.data import IDENTITIES, Layer, LeafPlan, PlanData
from trainkit.growth.plan.trees import big_tree
from trainkit.growth.plan.validation import check_arrays, check_params
from trainkit.packed import Packed

PyTree = Any


def grow_params(
    growth: MapData,
    params: PyTree,
    *,
    donate: bool = False,
    out_shardings: Any = None,
    like: PyTree = None,
) -> PyTree:
    """See `trainkit.growth.GrowthMap.params`."""
    if isinstance(params, Packed):
        tree = grow_params(growth, params.tree, out_shardings=out_shardings, like=like)
        return Packed.pack(tree)
    plan = plan_of(growth)
    check_params(plan, params)
    check_arrays(params, "params")
    if like is not None:
        found = {path: tuple(leaf.shape) for path, leaf in named_leaves(like).items()}
        if found != {leaf.path: leaf.big for leaf in plan.leaves}:
            raise GrowthError(
                "`like` does not have the leaves and shapes of this plan's big model",
                hint="pass the big_params that the plan was made from",
            )
    arrays = all(isinstance(x, jax.Array | np.ndarray) for x in jax.tree.leaves(like))
    run = grower(growth, like, like if arrays else None)
    return run_on_device(run, (params, growth.key), out_shardings, params if donate else None)


def plan_of(growth: MapData) -> PlanData:
    """The plan of a map.

    Raises:
      GrowthError: the map was written by hand and has no plan.
    """
    if growth.plan is None:
        raise GrowthError(
            "this map was not made from a plan, so it does not say what new entries of parameters "
            "hold",
            hint="use plan.realise(key)",
        )
    return growth.plan


def run_on_device(run: Callable[..., PyTree], args: tuple, out_shardings: Any, spent: PyTree):
    """`run(*args)` under one jit; then deletes the buffers of `spent`."""
    options: dict[str, Any] = {} if out_shardings is None else {"out_shardings": out_shardings}
    grown = jax.jit(run, **options)(*args)
    # XLA reuses a donated buffer only for a result of the same size. So the buffers of grown leaves
    # are deleted here; the runtime frees them once the computation has read them.
    for leaf in jax.tree.leaves(spent):
        concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
        if concrete and not leaf.is_deleted():
            leaf.delete()
    return grown


def grower(
    growth: MapData, like: PyTree = None, fresh: PyTree = None
) -> Callable[[PyTree, jax.Array | None], PyTree]:
    """The pure function (params, key) -> grown params that `grow_params` jits.

    Args:
      growth: a map that was made from a plan.
      like: a tree of the big model whose structure the result gets; `None`: that of the plan.
      fresh: a tree of the big model with values for leaves that copy no old leaf.
    """
    plan = plan_of(growth)
    values = {} if fresh is None else named_leaves(fresh)
    tree = jax.tree.structure(like) if like is not None else big_tree(plan)
    # Another tree structure may have its leaves in another order.
    order = [leaf.path for leaf in plan.leaves] if like is None else list(named_leaves(like))

    def run(small: PyTree, key: jax.Array | None) -> PyTree:
        old = named_leaves(lifted(small, growth))
        grown = {leaf.path: _leaf(growth, leaf, old, key, values) for leaf in plan.leaves}
        if tree is None:
            return jax.tree_util.tree_map_with_path(lambda at, _: grown[path_name(at)], small)
        return jax.tree.unflatten(tree, [grown[name] for name in order])

    return run


def grow_one(growth: MapData, leaf: LeafPlan, old: jax.Array | None) -> jax.Array:
    """One leaf of what `grow_params` returns.

    Args:
      growth: the map.
      leaf: a leaf of its plan.
      old: the small model's leaf `leaf.source`; `None` if it has none.
    """
    known = {}
    if old is not None:
        leaf = dataclasses.replace(leaf, dtype=str(old.dtype))  # a checkpoint may have another one
        lift = jnp.ndim(old) + 1 == len(leaf.small)  # a dense leaf is one expert
        known[str(leaf.source)] = jnp.expand_dims(old, 0) if lift else jnp.asarray(old)
    return _leaf(growth, leaf, known, growth.key, {})


def _leaf(
    growth: MapData,
    leaf: LeafPlan,
    old: Mapping[str, jax.Array],
    key: jax.Array | None,
    fresh: Mapping[str, jax.Array],
) -> jax.Array:
    layer, how, draw = leaf.layer, growth.leaves[leaf.path], growth.draws[leaf.path]
    if layer is not None and layer.becomes == "parts":
        return _of_parts(growth, leaf, layer, old, key, fresh)
    key = None if key is None else jax.random.fold_in(key, draw.number)
    if layer is None or (layer.becomes == "copy" and not layer.rows):
        return grow_leaf(old[str(leaf.source)], how, key, draw.noise)
    dtype = jnp.dtype(leaf.dtype)
    if layer.becomes in ("one", "random") and leaf.path in fresh:
        return fresh[leaf.path].astype(dtype)
    if layer.becomes in IDENTITIES and not layer.rows:
        eye = initial(layer.becomes, leaf.small, dtype, key, layer.start)
        return grow_leaf(eye, how, key, draw.noise)
    if not layer.rows:
        return initial(layer.becomes, leaf.big, dtype, key)
    rows = np.array([row for row, _ in layer.rows])
    w = jnp.take(old[str(leaf.source)], rows, layer.axis)
    axes = tuple(None if d == layer.axis else a for d, a in enumerate(how.axes))
    w = grow_leaf(w, how._replace(axes=axes), key, draw.noise)
    if layer.becomes == "copy":
        return w
    shape = tuple(n for d, n in enumerate(leaf.big) if d != layer.axis)
    made = jnp.expand_dims(initial(layer.becomes, shape, dtype, key, layer.start), layer.axis)
    new = np.array([is_new for _, is_new in layer.rows])
    mask = new.reshape([-1 if d == layer.axis else 1 for d in range(w.ndim)])
    return jnp.where(mask, made, w)


def _of_parts(
    growth: MapData,
    leaf: LeafPlan,
    layer: Layer,
    old: Mapping[str, jax.Array],
    key: jax.Array | None,
    fresh: Mapping[str, jax.Array],
) -> jax.Array:
    """A leaf whose parts hold different things, each taken from a whole leaf that holds it."""
    axis, start, parts = layer.cut + bool(layer.rows and layer.cut >= layer.axis), 0, []
    for size, what in layer.parts:
        whole = dataclasses.replace(layer, becomes=cast(Any, what), parts=())
        w = _leaf(growth, dataclasses.replace(leaf, layer=whole), old, key, fresh)
        parts.append(jax.lax.slice_in_dim(w, start, start + size, axis=axis))
        start += size
    return jnp.concatenate(parts, axis)
