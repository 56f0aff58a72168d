"""Growing arrays: gather along each axis, multiply by one vector an axis, all inside one jit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.blueprint import LeafPlan, Plan, Symmetry
from trainkit.growth.errors import GrowthError
from trainkit.growth.identity import identity_kernel
from trainkit.growth.layout import repeats
from trainkit.growth.leaf import AxisGrowth, LeafGrowth
from trainkit.growth.paths import named_leaves, path_name
from trainkit.growth.realising import check_symmetry, noise_groups, realise

PyTree = Any


def grow_params(
    plan: Plan,
    params: PyTree,
    key: jax.Array | None,
    symmetry: Symmetry,
    donate: bool,
    out_shardings: Any,
    like: PyTree,
) -> PyTree:
    """See `Plan.grow`."""
    check_symmetry(plan, key, symmetry)
    check_params(plan, params)
    if like is not None:
        found = {path: tuple(leaf.shape) for path, leaf in named_leaves(like).items()}
        if found != {leaf.path: leaf.big for leaf in plan.leaves}:
            raise GrowthError(
                "`like` does not have the leaves and shapes of the big model of this plan",
                mend="pass the big_params that the plan was made from",
            )
    arrays = all(isinstance(x, jax.Array | np.ndarray) for x in jax.tree.leaves(like))
    run = grower(plan, key, symmetry, like, like if arrays else None)
    return run_on_device(run, (params, key), out_shardings, params if donate else None)


def run_on_device(run: Callable[..., PyTree], args: tuple, out_shardings: Any, spent: PyTree):
    """`run(*args)` under one jit; the buffers of `spent` are given up."""
    options: dict[str, Any] = {} if out_shardings is None else {"out_shardings": out_shardings}
    grown = jax.jit(run, **options)(*args)
    # XLA reuses a buffer for one of its own size only: what has grown is given up here, as soon as
    # the computation has read it.
    for leaf in jax.tree.leaves(spent):
        concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
        if concrete and not leaf.is_deleted():
            leaf.delete()
    return grown


def grower(
    plan: Plan,
    key: jax.Array | None,
    symmetry: Symmetry,
    like: PyTree = None,
    fresh: PyTree = None,
) -> Callable[[PyTree, jax.Array | None], PyTree]:
    """The function (params, key) -> grown params that `grow_params` jits.

    `fresh` has values of the big model for what copies nothing.
    """
    values = {} if fresh is None else named_leaves(fresh)
    growths = realise(plan, key, symmetry)
    groups = noise_groups(plan) if symmetry == "noise" else {}
    tree = jax.tree.structure(like) if like is not None else big_tree(plan)

    def run(small: PyTree, key: jax.Array | None) -> PyTree:
        old = named_leaves(small)
        grown = {}
        for i, leaf in enumerate(plan.leaves):
            own = jax.random.fold_in(key, i) if key is not None else None
            how, noise = growths[leaf.path], groups.get(leaf.path, ())
            grown[leaf.path] = _leaf(leaf, old, how, own, noise, values)
        if tree is None:
            return jax.tree_util.tree_map_with_path(lambda at, _: grown[path_name(at)], small)
        return jax.tree.unflatten(tree, list(grown.values()))

    return run


def big_tree(plan: Plan) -> Any:
    """The structure of the big model's parameters; `None` where it is the small one's."""
    return None if plan.depth is None else _trees(plan)[1]


def small_tree(plan: Plan, values: Mapping[str, Any]) -> PyTree:
    """The small model's tree, of a plan that adds layers, from the values of its leaves by name."""
    tree = _trees(plan)[0]
    places = jax.tree.unflatten(tree, range(tree.num_leaves))
    return jax.tree_util.tree_map_with_path(lambda at, _: values[path_name(at)], places)


def _trees(plan: Plan) -> tuple[Any, Any]:
    if plan.trees is None:
        raise GrowthError(
            "this plan was read from JSON, adds layers, and the parameters hold other containers "
            "than dicts, lists and tuples",
            mend="pass like=, the big model's parameters or their shapes, or make the plan anew",
        )
    return plan.trees


def _leaf(
    leaf: LeafPlan,
    old: Mapping[str, jax.Array],
    growth: LeafGrowth,
    key: Any,
    noise: Any,
    fresh: Mapping[str, jax.Array],
) -> jax.Array:
    layer = leaf.layer
    if layer is None or (layer.becomes == "copy" and not layer.rows):
        return grow_leaf(old[str(leaf.source)], growth, key, noise)
    dtype = jnp.dtype(leaf.dtype)
    if layer.becomes in ("one", "random") and leaf.path in fresh:
        return fresh[leaf.path].astype(dtype)
    if layer.becomes == "eye" and not layer.rows:
        return grow_leaf(_initial("eye", leaf.small, dtype, key), growth, key, noise)
    if not layer.rows:
        return _initial(layer.becomes, leaf.big, dtype, key)
    rows = np.array([row for row, _ in layer.rows])
    w = jnp.take(old[str(leaf.source)], rows, layer.axis)
    along = growth.axes[layer.axis]
    axes = tuple(None if d == layer.axis else a for d, a in enumerate(growth.axes))
    assert along is not None
    w = grow_leaf(w, growth._replace(axes=axes), key, noise)
    if layer.becomes == "copy":
        return w
    shape = tuple(n for d, n in enumerate(leaf.big) if d != layer.axis)
    made = jnp.expand_dims(_initial(layer.becomes, shape, dtype, key), layer.axis)
    new = np.array([is_new for _, is_new in layer.rows])
    mask = new.reshape([-1 if d == layer.axis else 1 for d in range(w.ndim)])
    return jnp.where(mask, made, w)


def _initial(becomes: str, shape: tuple[int, ...], dtype: Any, key: Any) -> jax.Array:
    """What a leaf of a new layer holds that copies nothing."""
    if becomes == "zero" or not jnp.issubdtype(dtype, jnp.inexact):
        return jnp.zeros(shape, dtype)
    if becomes == "one":
        return jnp.ones(shape, dtype)
    if becomes == "eye":
        return jnp.asarray(identity_kernel(shape, dtype))
    key = jax.random.key(0) if key is None else key
    inputs = max(1, math.prod(shape[:-1]))
    drawn = jax.random.normal(key, shape, arithmetic(dtype)) / math.sqrt(inputs)
    return drawn.astype(dtype)


def check_params(plan: Plan, params: PyTree) -> None:
    """Refuses parameters that are not those of the plan."""
    found = [(path_name(p), leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(params)]
    planned = plan.old
    missing = [p for p in planned if p not in {q for q, _ in found}]
    unknown = [p for p, _ in found if p not in planned]
    if missing or unknown:
        raise GrowthError(
            f"the parameters are not those of the plan: missing {missing[:5] or 'none'}, not in "
            f"the plan {unknown[:5] or 'none'}",
            params=[*missing[:3], *unknown[:3]],
            mend="pass the tree that the plan was made from (its small_params)",
        )
    for path, leaf in found:
        wanted = planned[path]
        if tuple(leaf.shape) != wanted.small or str(leaf.dtype) != wanted.dtype:
            raise GrowthError(
                f"{path} has shape {tuple(leaf.shape)} and dtype {leaf.dtype}; the plan was made "
                f"for {wanted.small} and {wanted.dtype}",
                params=[path],
                mend="make a plan for these parameters",
            )


def _vector(x: np.ndarray, axis: int, rank: int, dtype) -> jax.Array:
    return jnp.asarray(x, dtype).reshape([-1 if d == axis else 1 for d in range(rank)])


def arithmetic(dtype) -> Any:
    """The dtype to compute in: float32 for narrower ones."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return dtype
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def grow_leaf(w: jax.Array, growth: LeafGrowth, key: jax.Array | None, noise=()) -> jax.Array:
    """One array: W′ = c · (W[π] + shift) − shift, with noise and fresh units where asked for."""
    if all(a is None for a in growth.axes) and growth.weight == 1.0:
        return w
    out = w
    for d, axis in enumerate(growth.axes):
        if axis is not None:
            out = take(out, axis, d)
    if not jnp.issubdtype(w.dtype, jnp.inexact):
        return out
    wide = arithmetic(w.dtype)
    out = out.astype(wide)
    rank = out.ndim
    if growth.shift:
        out = out + jnp.asarray(growth.shift, wide)
    fresh = [(d, a) for d, a in enumerate(growth.axes) if a is not None and (a.source < 0).any()]
    if fresh:
        out = fill(out, fresh, key)
    # Factors of one axis at a time: their outer product would be as large as the leaf.
    for d, axis in enumerate(growth.axes):
        if axis is not None and (axis.weight != 1.0).any():
            out = out * _vector(axis.weight, d, rank, wide)
    if growth.weight != 1.0:
        out = out * jnp.asarray(growth.weight, wide)
    if noise:
        assert key is not None
        scale = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(out)))) * jnp.asarray(0.25, wide).real
        drawn = jax.random.normal(jax.random.fold_in(key, 0), out.shape, wide)
        out = out + scale.astype(wide) * zero_sum(drawn, noise, wide)
    if growth.shift:
        out = out - jnp.asarray(growth.shift, wide)
    return out.astype(w.dtype)


def take(w: jax.Array, axis: AxisGrowth, d: int) -> jax.Array:
    """W[π] along one axis (old unit 0 stands in where there is none)."""
    n, source = w.shape[d], axis.source
    found = repeats(source, n) if len(source) % max(n, 1) == 0 else None
    if found is None:
        return jnp.take(w, np.where(source < 0, 0, source), axis=d)
    # A repeat stays on its shard; a gather would fetch the whole axis first.
    for size, k in found:
        before, after, n = w.shape[:d], w.shape[d + 1 :], w.shape[d]
        blocks = w.reshape([*before, n // size, 1, size, *after])
        spread = jnp.broadcast_to(blocks, [*before, n // size, k, size, *after])
        w = spread.reshape([*before, n * k, *after])
    return w


def zero_sum(drawn: jax.Array, groups, dtype) -> jax.Array:
    """Noise with its mean over the copies of each unit taken away, along one axis after another.

    Only the first axis is needed for the function; units without copies get no noise.
    """
    d, group = groups[0]
    rank = drawn.ndim
    count = int(group.max()) + 1
    ids = np.where(group < 0, count, group)
    size = np.bincount(ids, minlength=count + 1)
    moved = jnp.moveaxis(drawn, d, 0)
    total = jax.ops.segment_sum(moved, ids, count + 1)
    mean = total / jnp.asarray(np.maximum(size, 1), dtype).reshape([-1] + [1] * (rank - 1))
    moved = moved - mean[ids]
    alive = (group >= 0) & (size[ids] > 1)
    moved = moved * jnp.asarray(alive, dtype).reshape([-1] + [1] * (rank - 1))
    return jnp.moveaxis(moved, 0, d)


def fill(out: jax.Array, fresh, key: jax.Array | None) -> jax.Array:
    """Writes what new units hold: zeros, or random values of the leaf's own size.

    The factors of the other axes come after it: rows that are read with 0 stay 0.
    """
    scale = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(out)))).astype(out.dtype)
    # Where two axes have new units the zeros of one win over what the other holds.
    order = sorted(enumerate(fresh), key=lambda f: ("random", "mean", "zero").index(f[1][1].fill))
    for i, (d, axis) in order:
        new = jnp.asarray(axis.source < 0).reshape([-1 if e == d else 1 for e in range(out.ndim)])
        if axis.fill == "random":
            assert key is not None
            drawn = jax.random.normal(jax.random.fold_in(key, i + 1), out.shape, out.dtype)
            drawn = scale * drawn
            # Variances and the like stay positive.
            out = jnp.where(new, jnp.where((out >= 0).all(), jnp.abs(drawn), drawn), out)
        elif axis.fill == "mean":
            count = jnp.asarray(int((axis.source >= 0).sum()), out.dtype)
            total = jnp.where(new, jnp.zeros((), out.dtype), out).sum(d, keepdims=True)
            out = jnp.where(new, total / count, out)
        else:
            out = jnp.where(new, jnp.zeros((), out.dtype), out)
    return out
