"""Clipping that survives infinities and overflow.

`optax.clip_by_global_norm` squares first: gradients of 1e20 in float32, or of 300 in float16, have
an infinite norm, and every update becomes 0. Here norms are taken of g / max|g|. An infinite
gradient has the limit of its direction: infinite entries share the bound, finite ones vanish. NaN
stays NaN, for a guard to see.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import scalar_like, widest
from trainkit.transforms.rule import rule
from trainkit.transforms.stacks import per_tensor

PyTree = Any


def safe_norm(tree: PyTree) -> jax.Array:
    """‖tree‖₂ over all leaves as a float32 (or float64) scalar, without overflow on the way.

    >>> import jax.numpy as jnp
    >>> print(f"{safe_norm([jnp.array([3e20]), jnp.array([4e20])]):.0e}")
    5e+20
    """
    _, largest, unit = _normalised(tree)
    return largest * unit


def _largest(tree: PyTree, dtype: Any) -> jax.Array:
    tops = [
        jnp.max(jnp.abs(x.astype(dtype)), initial=0) for x in jax.tree.leaves(tree) if jnp.size(x)
    ]
    return jnp.max(jnp.stack(tops)) if tops else jnp.zeros((), dtype)


def _normalised(tree: PyTree) -> tuple[PyTree, jax.Array, jax.Array]:
    """g / max|g| (its limit where that is infinite), max|g|, and ‖g / max|g|‖."""
    dtype = widest(tree)
    largest = _largest(tree, dtype)
    infinite = jnp.isinf(largest)
    divisor = jnp.where((largest > jnp.finfo(dtype).tiny) & ~infinite, largest, 1)
    # The reciprocal of the largest floats is denormal, and flushed to 0: scale down first.
    down = jnp.where(divisor > 1, 2.0**-64 if dtype == jnp.float32 else 2.0**-512, 1)
    down = down.astype(dtype)

    def one(x: jax.Array) -> jax.Array:
        x = x.astype(dtype)
        limit = jnp.where(jnp.isinf(x), jnp.sign(x), jnp.where(jnp.isnan(x), x, 0))
        return jnp.where(infinite, limit, (x * down) / (divisor * down))

    scaled = jax.tree.map(one, tree)
    squares = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(scaled)]
    unit = jnp.sqrt(sum(squares, jnp.zeros((), dtype)))
    return scaled, jnp.where(infinite, largest, divisor), unit


def _clip(tree: PyTree, bound: Any) -> PyTree:
    scaled, largest, unit = _normalised(tree)
    bound = jnp.asarray(bound).astype(unit.dtype)
    # ‖g‖ = largest · unit may overflow to infinity, which is above any bound, as it should be.
    within = largest * unit <= bound
    factor = bound / jnp.where(unit > 0, unit, 1)
    return jax.tree.map(
        lambda x, s: jnp.where(within, x, (s * factor).astype(x.dtype)), tree, scaled
    )


@rule
def clip_by_value(max_value: float) -> optax.GradientTransformation:
    """Clips every element: g ← min(max(g, −c), c). It turns the gradient. Optax: `optax.clip`.

    >>> import jax.numpy as jnp
    >>> tx = clip_by_value(1.0)
    >>> tx.update(jnp.array([0.5, -3.0, jnp.inf]), tx.init(jnp.ones(3)))[0].tolist()
    [0.5, -1.0, 1.0]
    """
    _require(max_value, "max_value")
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda g: jnp.clip(g, -scalar_like(max_value, g), scalar_like(max_value, g)), updates
        )
    )


@rule
@per_tensor
def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
    """Clips each leaf by its own norm: g ← g · min(1, c/‖g‖₂).

    Optax has it by root mean square only (`optax.clip_by_block_rms`).

    >>> import jax.numpy as jnp
    >>> tx = clip_by_norm(1.0)
    >>> tx.update({"a": jnp.array([3e20, 4e20])}, tx.init(jnp.ones(2)))[0]["a"].round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    _require(max_norm, "max_norm")
    return optax.stateless(lambda updates, _: jax.tree.map(lambda g: _clip(g, max_norm), updates))


@rule
def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Clips all leaves together: g ← g · min(1, c/‖g‖₂) with the norm over the whole tree.

    The direction is kept. Optax: `optax.clip_by_global_norm`, which overflows (see this module).

    >>> import jax.numpy as jnp
    >>> tx = clip_by_global_norm(1.0)
    >>> g = {"a": jnp.array([3e20]), "b": jnp.array([4e20])}
    >>> {k: round(float(v[0]), 3) for k, v in tx.update(g, tx.init(g))[0].items()}
    {'a': 0.6, 'b': 0.8}

    Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013.
    """
    _require(max_norm, "max_norm")
    return optax.stateless(lambda updates, _: _clip(updates, max_norm))


@rule(needs_params=True)
@per_tensor
def clip_adaptive(clipping: float, eps: float = 1e-3) -> optax.GradientTransformation:
    """Adaptive clipping: each unit's gradient to at most λ times the norm of its own weights.

    g_u ← g_u · min(1, λ max(‖w_u‖, ε)/‖g_u‖), a unit being all that feeds one entry of the last
    axis (a vector or scalar is one unit). Optax: `optax.adaptive_grad_clip`, which stops at four
    axes and overflows.

    >>> import jax.numpy as jnp
    >>> tx, w = clip_adaptive(0.5), jnp.array([[3.0, 1.0], [4.0, 0.0]])
    >>> tx.update(jnp.array([[30.0, 0.25], [40.0, 0.0]]), tx.init(w), w)[0].tolist()
    [[1.5, 0.25], [2.0, 0.0]]

    Brock, De, Smith and Simonyan, High-Performance Large-Scale Image Recognition Without
    Normalization, 2021.
    """
    _require(clipping, "clipping")

    def one(g: jax.Array, w: jax.Array) -> jax.Array:
        if g.ndim < 2:
            return _clip(
                g, scalar_like(clipping, g) * jnp.maximum(safe_norm(w), scalar_like(eps, g))
            )
        units = g.reshape(-1, g.shape[-1])
        norms = jax.vmap(safe_norm, in_axes=1)(w.reshape(units.shape))
        bounds = scalar_like(clipping, g) * jnp.maximum(norms, scalar_like(eps, g))
        return jax.vmap(_clip, in_axes=(1, 0), out_axes=1)(units, bounds).reshape(g.shape)

    return optax.stateless(lambda updates, params: jax.tree.map(one, updates, params))


@rule
@per_tensor
def centralize(output_axis: int = -1) -> optax.GradientTransformation:
    """Gradient centralisation: each output unit's gradient minus its mean over the inputs.

    For leaves of two axes or more, g ← g − mean(g) over every axis but `output_axis`, the last in
    Flax, Haiku and here (kernels are inputs × outputs). `optax.centralize` averages over every axis
    but the *first*, as for PyTorch's kernels: on a Flax kernel that is not the paper's rule.

    >>> import jax.numpy as jnp
    >>> tx = centralize()
    >>> tx.update(jnp.array([[1.0, 5.0], [3.0, 5.0]]), tx.init(jnp.ones((2, 2))))[0].tolist()
    [[-1.0, 0.0], [1.0, 0.0]]

    Yong et al., Gradient Centralization: A New Optimization Technique for Deep Neural Networks,
    2020.
    """

    def one(g: jax.Array) -> jax.Array:
        if g.ndim < 2 or not g.size:
            return g
        kept = output_axis % g.ndim
        return g - g.mean(axis=tuple(a for a in range(g.ndim) if a != kept), keepdims=True)

    return optax.stateless(lambda updates, _: jax.tree.map(one, updates))


def _require(value: Any, name: str) -> None:
    if callable(value):
        raise TypeError(f"{name} must be a number; inject the clip to change it while it runs.")
    validation.number(name, value, above=0, finite=False)
