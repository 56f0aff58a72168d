"""Depth alone, at once: more layers of the same widths, and by how much the outputs change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.apply import grow_params
from trainkit.growth.plan.leaf_map import LeafGrowth, Origin
from trainkit.growth.planning import plan

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

    Returns:
      A `Deepened`; a `Plan` that grows width and depth comes from `trainkit.growth.plan`.

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
    found = plan(small_fn, deep_fn, params, deep_params, *inputs, how=how, trainable=trainable)
    if found.depth is None or found.grown_axes:
        raise GrowthError(
            "the second model has no more layers than the first"
            if found.depth is None
            else "more than the number of layers differs between the two models",
            hint="trainkit.growth.plan grows width and depth together, or width alone",
        )
    deep = grow_params(found, params, None, "even", False, None, deep_params)
    stacked = {leaf.path for leaf in found.leaves if leaf.layer is not None and leaf.layer.rows}
    return Deepened(
        deep,
        {name: growth for name, growth in found.realise().items() if name in stacked},
        found.origin,
        found.zeroed,
        _jump(small_fn, deep_fn, params, deep, _concrete(inputs)),
    )


def _concrete(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)

    def one(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        if jnp.issubdtype(x.dtype, jnp.inexact):
            return jnp.asarray(rng.normal(size=x.shape), x.dtype)
        return jnp.asarray(rng.integers(0, 2, x.shape), x.dtype)

    return jax.tree.map(one, inputs)


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
