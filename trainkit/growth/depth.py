"""Depth: more layers of the same widths, by identity, stacking, interposition or repetition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.layers import align, order
from trainkit.growth.leaf import AxisGrowth, LeafGrowth
from trainkit.growth.moments import Origin
from trainkit.growth.paths import named_leaves, path_name
from trainkit.growth.zeroing import leaves_to_zero

PyTree = Any


class Deepened(NamedTuple):
    """A deeper model's parameters, and what optimizer state and certificate need to know.

    Attributes:
      params: the deeper model's.
      growth: leaf name -> `LeafGrowth` along the layer axis, for leaves that are stacked.
      origin: leaf name -> `Origin`, for the others.
      zeroed: the leaves (of stacked ones: the new rows) that were set to 0.
      jump: greatest change of an output, relative to the outputs' scale.
    """

    params: PyTree
    growth: dict[str, LeafGrowth]
    origin: dict[str, Origin]
    zeroed: tuple[str, ...]
    jump: float


def deepen(
    small_fn: Callable[..., PyTree],
    deep_fn: Callable[..., PyTree],
    params: PyTree,
    deep_params: PyTree,
    *inputs: PyTree,
    how: str = "identity",
    trainable: Callable[[str], bool] = lambda name: True,
) -> Deepened:
    """The parameters of a deeper model of the same widths.

    Args:
      small_fn, deep_fn: `fn(params, *inputs)`.
      params: the shallow model's parameters (arrays).
      deep_params: the deep model's parameters, or their shapes.
      *inputs: arrays, with which the functions are compared; shapes are filled at random.
      how: "identity" adds nothing to what is computed: in a residual block the last linear
        parameters before the addition (found in the program) are 0, a plain layer gets an identity
        or Dirac kernel. "stack" puts the whole sequence on top of itself, "interpose" each copy
        beside its original, "middle" repeats the middle layers, "last" the last. New layers copy
        the layer they stand for.
      trainable: which leaves may be set to 0 (not running statistics).

    Raises:
      GrowthError: the trees differ in more than layers; or "identity" is asked for and the
        function is not kept (a norm behind the addition, an activation other than ReLU between
        plain layers).

    >>> import jax.numpy as jnp
    >>> def net(p, x):
    ...     for layer in p:
    ...         x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
    ...     return x
    >>> layer = {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 2))}
    >>> deep = deepen(net, net, [layer], [layer, layer], jnp.ones((4, 2)))
    >>> deep.zeroed, deep.jump
    (('1/down',), 0.0)
    """
    shapes = {n: tuple(leaf.shape) for n, leaf in named_leaves(params).items()}
    deep_shapes = {n: tuple(leaf.shape) for n, leaf in named_leaves(deep_params).items()}
    origin = align(shapes, deep_shapes, how)
    stacks = _stacks(origin, shapes, deep_shapes, how)
    values = named_leaves(params)
    new = [n for n, come in origin.items() if (come.new or n in stacks) and trainable(n)]

    def build(zero: frozenset[str], identity: bool) -> PyTree:
        def one(path: tuple[Any, ...], spec: Any) -> jax.Array:
            name = path_name(path)
            come = origin[name]
            if come.leaf is None:
                value = jnp.zeros(spec.shape, spec.dtype)
            else:
                value = values[come.leaf]
            if name in stacks:
                axis, rows = stacks[name]
                value = jnp.take(value, np.array([source for source, _ in rows]), axis)
                if name in zero:
                    fresh = np.array([is_new for _, is_new in rows])
                    shape = [-1 if a == axis else 1 for a in range(value.ndim)]
                    value = jnp.where(fresh.reshape(shape), jnp.zeros_like(value), value)
            elif come.new and name in zero:
                value = jnp.zeros_like(value)
            elif come.new and identity and trainable(name):
                value = _identity(value)
            return value

        return jax.tree_util.tree_map_with_path(one, deep_params)

    probe = _concrete(inputs)
    orphans = [n for n, come in origin.items() if come.leaf is None]
    if orphans and how != "identity":
        raise GrowthError(
            f"how={how!r} copies layers, but no old layer has the shapes of the new ones",
            params=orphans[:4],
            mend="how='identity' makes new layers that pass their input on",
        )
    square = all(
        _square(named.shape)
        for name, named in named_leaves(deep_params).items()
        if name in set(new)
    )
    if how != "identity":
        deep = build(frozenset(), False)
        jump = _jump(small_fn, deep_fn, params, deep, probe)
        return _result(deep, stacks, origin, (), jump)
    zero = leaves_to_zero(deep_fn, deep_params, probe, new) if new else frozenset()
    best: tuple[float, PyTree, tuple[str, ...]] | None = None
    for leaves, identity in ((zero, False), (frozenset[str](), True)):
        if identity != bool(orphans) and (orphans or not square):
            continue
        deep = build(leaves, identity)
        jump = _jump(small_fn, deep_fn, params, deep, probe)
        if best is None or jump < best[0]:
            best = (jump, deep, tuple(sorted(leaves)))
        if jump <= _tolerance(params):
            return _result(deep, stacks, origin, tuple(sorted(leaves)), jump)
    raise GrowthError(
        "the new layers cannot be made to add nothing: with "
        f"{', '.join(sorted(zero)[:4]) or 'no parameters'} at 0 the outputs change, and with "
        f"identity kernels too (relative change {best[0] if best else float('nan'):.1e})",
        params=new[:6],
        mend="a norm behind the residual addition needs a gate, as in x + gate · block(x) with "
        "gate = 0; plain layers need ReLU between them and square kernels; or grow with "
        "how='stack', 'interpose', 'middle' or 'last', which change the function",
    )


def scan_lengths(fn: Callable[..., PyTree], params: PyTree, inputs: tuple[Any, ...]) -> list[int]:
    """The lengths of the loops in a function, which tell stacked layers from wide ones.

    >>> scan_lengths(lambda p, x: jax.lax.scan(lambda c, w: (c * w, None), x, p)[0],
    ...              jnp.ones(3), (jnp.ones(()),))
    [3]
    """
    found: list[int] = []

    def look(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "scan":
                found.append(eqn.params["length"])
            for value in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(value):
                    look(getattr(value, "jaxpr", value))

    look(jax.make_jaxpr(fn)(params, *inputs).jaxpr)
    return found


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def _result(
    deep: PyTree,
    stacks: Mapping[str, tuple[int, list[tuple[int, bool]]]],
    origin: dict[str, Origin],
    zeroed: tuple[str, ...],
    jump: float,
) -> Deepened:
    growth = {}
    for name, (axis, rows) in stacks.items():
        # New rows have no history: moments start from 0 and from the mean over the old layers.
        source = np.array([-1 if is_new else s for s, is_new in rows], np.int32)
        along = AxisGrowth(source, np.ones(len(rows)), np.ones(len(rows)))
        axes: list[AxisGrowth | None] = [None] * named_leaves(deep)[name].ndim
        axes[axis] = along
        growth[name] = LeafGrowth(tuple(axes))
    return Deepened(deep, growth, origin, zeroed, jump)


def _stacks(
    origin: Mapping[str, Origin],
    shapes: Mapping[str, tuple[int, ...]],
    deep_shapes: Mapping[str, tuple[int, ...]],
    how: str,
) -> dict[str, tuple[int, list[tuple[int, bool]]]]:
    """Leaves with a layer axis: the axis, and which old layer each row is or copies."""
    result = {}
    for name, come in origin.items():
        if come.leaf is None or shapes[come.leaf] == deep_shapes[name]:
            continue
        old, new = shapes[come.leaf], deep_shapes[name]
        axes = [a for a, (n, m) in enumerate(zip(old, new, strict=False)) if n != m]
        if len(old) != len(new) or len(axes) != 1:
            raise GrowthError(
                f"{name} has shape {old} in the shallow and {new} in the deep model: more than the "
                "number of layers differs",
                params=[name],
                mend="deepen at the same widths, then widen; trainkit.growth.grow does both",
            )
        (axis,) = axes
        result[name] = (axis, order(old[axis], new[axis], how))
    return result


def _identity(value: jax.Array) -> jax.Array:
    """What lets a plain layer pass its input on: I, a Dirac kernel, a bias of 0."""
    if value.ndim < 2:
        return jnp.zeros_like(value)
    *window, n, _ = value.shape
    centre = tuple(w // 2 for w in window)
    return jnp.zeros_like(value).at[centre].set(jnp.eye(n, dtype=value.dtype))


def _square(shape: tuple[int, ...]) -> bool:
    return len(shape) < 2 or shape[-1] == shape[-2]


def _concrete(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)

    def one(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        if jnp.issubdtype(x.dtype, jnp.inexact):
            return jnp.asarray(rng.normal(size=x.shape), x.dtype)
        return jnp.asarray(rng.integers(0, 2, x.shape), x.dtype)

    return jax.tree.map(one, inputs)


def _tolerance(params: PyTree) -> float:
    """How far rounding may move an output: zeros and identities are exact, sums are reordered."""
    finest = [
        float(jnp.finfo(leaf.dtype).eps)
        for leaf in jax.tree.leaves(params)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return 100 * max(finest, default=0.0)


def _jump(
    small_fn: Callable[..., PyTree],
    deep_fn: Callable[..., PyTree],
    params: PyTree,
    deep: PyTree,
    inputs: tuple[Any, ...],
) -> float:
    before, after = jax.jit(small_fn)(params, *inputs), jax.jit(deep_fn)(deep, *inputs)
    return relative_change(before, after)


def leading(x: Any, like: Any) -> Any:
    """The leading entries of an output that has grown at its end."""
    return x if x.shape == like.shape else x[tuple(map(slice, like.shape))]


def relative_change(before: PyTree, after: PyTree) -> float:
    """max |after − before| / root mean square of before, over all floating outputs.

    >>> relative_change(jnp.array([3.0, 4.0]), jnp.array([3.0, 4.5])) == 0.5 / 12.5**0.5
    True
    """
    worst = 0.0
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if jnp.issubdtype(a.dtype, jnp.inexact) and a.size:
            a, b = np.asarray(a, np.float64), np.asarray(leading(b, a), np.float64)
            scale = float(np.sqrt(np.mean(a**2))) or 1.0
            change = float(np.max(np.abs(b - a))) / scale
            worst = max(worst, change if np.isfinite(change) else float("inf"))
    return worst
