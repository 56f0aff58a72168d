"""Growing arrays: gather along each axis, multiply by one vector an axis, all inside one jit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.draw import normal
from trainkit.growth.maps.gather import take
from trainkit.growth.maps.identity import identity_kernel
from trainkit.growth.maps.realise import check_symmetry, noise_groups, realise
from trainkit.growth.plan.data import LeafPlan, Plan, Symmetry
from trainkit.growth.plan.leaf_map import AxisGrowth, LeafGrowth
from trainkit.growth.plan.upcycling import lifted
from trainkit.growth.plan.validation import check_arrays, check_params

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
    check_arrays(params, "params")
    if like is not None:
        found = {path: tuple(leaf.shape) for path, leaf in named_leaves(like).items()}
        if found != {leaf.path: leaf.big for leaf in plan.leaves}:
            raise GrowthError(
                "`like` does not have the leaves and shapes of the big model of this plan",
                hint="pass the big_params that the plan was made from",
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
    origin = plan.origin
    tree = jax.tree.structure(like) if like is not None else big_tree(plan)
    # Another container may have its leaves in another order.
    order = [leaf.path for leaf in plan.leaves] if like is None else list(named_leaves(like))

    def run(small: PyTree, key: jax.Array | None) -> PyTree:
        old = named_leaves(lifted(small, growths, origin))
        grown = {}
        for i, leaf in enumerate(plan.leaves):
            own = jax.random.fold_in(key, i) if key is not None else None
            how, noise = growths[leaf.path], groups.get(leaf.path)
            grown[leaf.path] = _leaf(leaf, old, how, own, noise, values)
        if tree is None:
            return jax.tree_util.tree_map_with_path(lambda at, _: grown[path_name(at)], small)
        return jax.tree.unflatten(tree, [grown[name] for name in order])

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
            hint="pass like=, the big model's parameters or their shapes, or make the plan anew",
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


def _vector(x: np.ndarray, axis: int, rank: int, dtype) -> jax.Array:
    return jnp.asarray(x, dtype).reshape([-1 if d == axis else 1 for d in range(rank)])


def arithmetic(dtype) -> Any:
    """The dtype to compute in: float32 for narrower ones."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return dtype
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def grow_leaf(w: jax.Array, growth: LeafGrowth, key: jax.Array | None, noise=None) -> jax.Array:
    """One array: W′ = c · (W[π] + shift) − shift, with noise and fresh units where asked for."""
    if all(a is None for a in growth.axes) and growth.weight == 1.0:
        return w
    if not jnp.issubdtype(w.dtype, jnp.inexact):
        return take(w, [(d, axis) for d, axis in enumerate(growth.axes) if axis is not None])
    wide = arithmetic(w.dtype)
    rank = w.ndim
    # Nothing of the grown size is asked for twice, or XLA would keep it for a while.
    out = w.astype(wide)
    square = jnp.tensordot(out, jnp.conj(out), out.ndim)  # no buffer of squares
    rms = jnp.sqrt(jnp.real(square) / max(out.size, 1)).astype(wide)
    if growth.shift:
        out = out + jnp.asarray(growth.shift, wide)
    real = jnp.issubdtype(wide, jnp.floating) and out.size
    positive = jnp.min(out) >= 0 if real else jnp.asarray(False)
    out = _copied(out, _in_order(growth), rms, positive, key)
    # Factors of one axis at a time: their outer product would be as large as the leaf.
    for d, axis in enumerate(growth.axes):
        if axis is not None and (axis.weight != 1.0).any():
            out = out * _vector(axis.weight, d, rank, wide)
    if growth.weight != 1.0:
        out = out * jnp.asarray(growth.weight, wide)
    if noise is not None:
        assert key is not None
        out = out + zero_sum(key, out.shape, noise, wide) * _quarter(rms, growth)
    if growth.shift:
        out = out - jnp.asarray(growth.shift, wide)
    return out.astype(w.dtype)


def _in_order(growth: LeafGrowth) -> list[tuple[int, AxisGrowth]]:
    """The axes that grow, in the order in which they are filled.

    Where two have new units, zeros win over means and means over what is random, which is drawn
    beside every copy.
    """
    axes = [(d, a) for d, a in enumerate(growth.axes) if a is not None]
    order = ["copied", "random", "mean", "zero"]
    return sorted(axes, key=lambda axis: order.index(_kind(axis[1])))


def _kind(axis: AxisGrowth) -> str:
    return axis.fill if (axis.source < 0).any() else "copied"


def _copied(
    w: jax.Array,
    axes: Sequence[tuple[int, AxisGrowth]],
    rms: jax.Array,
    positive: jax.Array,
    key: jax.Array | None,
) -> jax.Array:
    """W[π] along all axes, with what new units hold."""
    random = any(_kind(axis) == "random" for _, axis in axes)
    out = take(w, [(d, axis) for d, axis in axes if _kind(axis) == "copied"])
    for i, (d, axis) in enumerate(axes):
        if _kind(axis) == "copied":
            continue
        mean = None
        if _kind(axis) == "mean":
            # Of the small array, and then copied, where that is the same: it is at hand.
            mean = (out if random else w).mean(d, keepdims=True)
            if not random:
                mean = _mean_copied(mean, axes[:i])
        out = _along(out, axis, d, mean, rms, positive, key)
    return out


def _mean_copied(mean: jax.Array, axes: Sequence[tuple[int, AxisGrowth]]) -> jax.Array:
    """A mean over one axis, taken along the others that grow."""
    for d, axis in axes:
        old = mean
        mean = take(old, [(d, axis)])
        if _kind(axis) == "mean":
            mean = jnp.where(_new(axis, d, mean.ndim), old.mean(d, keepdims=True), mean)
    return mean


def _new(axis: AxisGrowth, d: int, rank: int) -> jax.Array:
    return jnp.asarray(axis.source < 0).reshape([-1 if e == d else 1 for e in range(rank)])


def _along(
    w: jax.Array,
    axis: AxisGrowth,
    d: int,
    mean: jax.Array | None,
    rms: jax.Array,
    positive: jax.Array,
    key: jax.Array | None,
) -> jax.Array:
    """W[π] along one axis, and what its new units hold: zeros, their mean, or random values of the
    leaf's own size (`rms`) and sign."""
    out = take(w, [(d, axis)])
    new = _new(axis, d, w.ndim)
    if axis.fill == "random":
        assert key is not None
        place = [np.arange(n, dtype=np.uint32) for n in out.shape]
        drawn = rms * normal(jax.random.fold_in(key, d + 1), place, out.dtype)
        # Variances and the like stay positive.
        return jnp.where(new, jnp.where(positive, jnp.abs(drawn), drawn), out)
    if mean is not None:
        return jnp.where(new, mean, out)
    return jnp.where(new, jnp.zeros((), out.dtype), out)


def _quarter(rms: jax.Array, growth: LeafGrowth) -> jax.Array:
    """How large noise is: a quarter of what the leaf holds after growth."""
    sizes = [np.sqrt(np.mean(a.weight**2)) for a in growth.axes if a is not None]
    return rms * jnp.asarray(0.25 * abs(growth.weight) * float(np.prod(sizes)), rms.dtype)


def zero_sum(key: jax.Array, shape: tuple[int, ...], noise, dtype) -> jax.Array:
    """Noise whose sum over the copies of each unit is 0, along one axis; see `noise_groups`.

    A unit draws a direction; its copies move along it by shares that sum to 0. Of several axes the
    first is enough for the function. Units without copies get no noise.
    """
    d, group, same = noise
    count = int(group.max()) + 1
    ids = np.where(group < 0, count, group)
    size = np.bincount(ids, minlength=count + 1)
    share = np.random.default_rng(count).normal(size=len(group))
    share -= (np.bincount(ids, share, count + 1) / np.maximum(size, 1))[ids]
    length = np.sqrt(np.bincount(ids, share**2, count + 1) / np.maximum(size, 1))[ids]
    moves = (group >= 0) & (size[ids] > 1)
    share = np.where(moves, share / np.where(moves, length, 1.0), 0.0)
    place = [np.arange(n, dtype=np.uint32) for n in shape]
    for e, at in {**same, d: ids}.items():
        place[e] = at.astype(np.uint32)
    return normal(key, place, dtype) * _vector(share, d, len(shape), dtype)
