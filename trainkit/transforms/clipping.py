"""Clipping that is correct for infinite gradients and without overflow.

`optax.clip_by_global_norm` squares first: gradients of 1e20 in float32, or of 300 in float16, have
an infinite norm, and every update becomes 0. Here, if squares overflow, the norm is computed of g
times a power of two. An infinite gradient becomes the limit of its direction: infinite entries
share the bound, and finite ones become 0, or less than 1e-29 of it. A NaN makes every entry one, so
that a guard cannot miss it. The real and the imaginary part of a complex entry count as two.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import scalar_like, widest
from trainkit.transforms.rule import real_only, rule
from trainkit.transforms.stacks import Stacked, per_tensor

PyTree = Any

SMALL = 4096  # elements of a leaf that is read together with others


class _Limit(NamedTuple):
    """g · min(1, bound/‖g‖) as min(|g · `power`|, `cap`) · `factor`, with the signs of g.

    ‖g‖ is `root` / `power`, where neither overflows. Only infinite elements are above the cap.
    """

    power: jax.Array
    cap: jax.Array
    factor: jax.Array
    root: jax.Array

    def of(self, g: jax.Array) -> jax.Array:
        if jnp.iscomplexobj(g):
            return jax.lax.complex(self.of(g.real), self.of(g.imag))
        return (_capped(g, self.power, self.cap) * self.factor).astype(g.dtype)


def safe_norm(tree: PyTree) -> jax.Array:
    """‖tree‖₂ over all leaves as a float32 (or float64) scalar, without intermediate overflow.

    >>> import jax.numpy as jnp
    >>> print(f"{safe_norm([jnp.array([3e20]), jnp.array([4e20])]):.0e}")
    5e+20
    """
    limit = _limit(tree, jnp.inf)
    return limit.root / limit.power


def _limit(tree: PyTree, bound: Any) -> _Limit:
    """What gives the tree a norm of at most `bound`, and leaves it as it is where it has that."""
    parts = lambda x: (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    leaves = [part for x in jax.tree.leaves(tree) for part in parts(x)]
    return _limited(leaves, jnp.asarray(bound).astype(widest(leaves)))


@jax.jit  # outside of another jit, a `cond` is compiled at each call
def _limited(leaves: list[jax.Array], bound: jax.Array) -> _Limit:
    """Reads g once for the sum of its squares, and once more, scaled, if they over- or underflow.

    Each branch ends with all scalars: outside, XLA would compute them anew for every leaf, and
    compiling takes most of this rule's time.
    """
    dtype, info = bound.dtype, jnp.finfo(bound.dtype)
    # Below this, squares that underflow to 0 would be missing in the sum.
    least = float(info.tiny / info.eps) * sum(x.size for x in leaves)
    down, up = (2.0 ** (info.maxexp * share) for share in (-25 / 32, 1 / 2))
    # Larger than the norm of finite g · down; its square fits 2³⁸ times into float32.
    much = 2.0 ** (info.maxexp * 45 / 128)
    # An infinite g is as one whose finite elements are too small to be seen below the cap.
    tiny, huge = float(info.tiny), 2.0 ** (info.maxexp * 25 / 32)

    def limit(power: jax.Array, total: jax.Array) -> _Limit:
        none = total == 0  # where the root has no derivative
        root = jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, total)))
        cap = jnp.where(power < 1, much, jnp.inf)
        infinite = (power < 1) & (root >= much)
        pick = lambda x, y: jnp.where(infinite, x, y).astype(dtype)
        power, cap, root = pick(tiny, power), pick(huge, cap), pick(root / much * huge, root)
        norm = root / power
        found = _Limit(power, cap, bound / jnp.where(none, 1, root), root)
        one = jnp.ones_like(norm)
        whole = _Limit(one, one * jnp.inf, one, norm)
        return jax.tree.map(lambda x, y: jnp.where(norm <= bound, x, y), whole, found)

    def scaled(power: jax.Array) -> jax.Array:
        squares = lambda x: jnp.minimum(jnp.square(x.astype(dtype) * power), much**2)
        # Small leaves as one: each reduction costs time to compile, and to go past.
        small = [x.astype(dtype).ravel() for x in leaves if x.size <= SMALL]
        parts = [x for x in leaves if x.size > SMALL] + ([jnp.concatenate(small)] if small else [])
        return sum((jnp.sum(squares(x)) for x in parts), jnp.zeros_like(power))

    total = sum((jnp.sum(jnp.square(x.astype(dtype))) for x in leaves), jnp.zeros_like(bound))
    power = jnp.where(total == jnp.inf, down, jnp.where(total <= least, up, 0)).astype(dtype)
    return jax.lax.cond(
        power > 0,
        lambda: limit(power, scaled(power)),
        lambda: limit(jnp.ones_like(total), total),
    )


def _capped(x: jax.Array, power: jax.Array, cap: jax.Array) -> jax.Array:
    return jnp.clip(x.astype(power.dtype) * power, -cap, cap)


@rule
@real_only
def clip_by_value(max_value: float) -> optax.GradientTransformation:
    """Clips every element: g ← min(max(g, −c), c). It changes the direction. Optax: `optax.clip`.

    >>> import jax.numpy as jnp
    >>> tx = clip_by_value(1.0)
    >>> tx.update(jnp.array([0.5, -3.0, jnp.inf]), tx.init(jnp.ones(3)))[0].tolist()
    [0.5, -1.0, 1.0]
    """
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda g: jnp.clip(g, -scalar_like(max_value, g), scalar_like(max_value, g)), updates
        )
    )


@rule
@per_tensor
def clip_by_norm(
    max_norm: float,
    *,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """Clips each leaf by its own norm: g ← g · min(1, c/‖g‖₂).

    Optax has only a version by root mean square (`optax.clip_by_block_rms`).

    >>> import jax.numpy as jnp
    >>> tx = clip_by_norm(1.0)
    >>> tx.update({"a": jnp.array([3e20, 4e20])}, tx.init(jnp.ones(2)))[0]["a"].round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """

    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda g: _limit(g, max_norm).of(g), updates)
    )


@rule
def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Clips all leaves together: g ← g · min(1, c/‖g‖₂) with the norm over the whole tree.

    The direction does not change. Optax: `optax.clip_by_global_norm`, which may overflow.

    >>> import jax.numpy as jnp
    >>> tx = clip_by_global_norm(1.0)
    >>> g = {"a": jnp.array([3e20]), "b": jnp.array([4e20])}
    >>> {k: round(float(v[0]), 3) for k, v in tx.update(g, tx.init(g))[0].items()}
    {'a': 0.6, 'b': 0.8}

    Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013.
    """

    def clip(updates: PyTree, _: Any) -> PyTree:
        return jax.tree.map(_limit(updates, max_norm).of, updates)

    return optax.stateless(clip)


@rule(needs_params=True)
@per_tensor
def clip_adaptive(
    clipping: float,
    eps: float = 1e-3,
    *,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """Adaptive clipping: bounds each unit's gradient by λ times the norm of its weights.

    g_u ← g_u · min(1, λ max(‖w_u‖, ε)/‖g_u‖). A unit is one index of the last axis, with all its
    inputs (a vector or scalar is one unit). Optax: `optax.adaptive_grad_clip`, which supports at
    most four axes and may overflow.

    >>> import jax.numpy as jnp
    >>> tx, w = clip_adaptive(0.5), jnp.array([[3.0, 1.0], [4.0, 0.0]])
    >>> tx.update(jnp.array([[30.0, 0.25], [40.0, 0.0]]), tx.init(w), w)[0].tolist()
    [[1.5, 0.25], [2.0, 0.0]]

    Brock, De, Smith and Simonyan, High-Performance Large-Scale Image Recognition Without
    Normalization, 2021.
    """

    def unit(g: jax.Array, w: jax.Array) -> jax.Array:
        size = safe_norm(w)
        least = jnp.maximum(size, scalar_like(eps, size))
        return _limit(g, scalar_like(clipping, size) * least).of(g)

    def one(g: jax.Array, w: jax.Array) -> jax.Array:
        if g.ndim < 2:
            return unit(g, w)
        flat = (math.prod(g.shape[:-1]), g.shape[-1])
        units = jax.vmap(unit, in_axes=1, out_axes=1)(g.reshape(flat), w.reshape(flat))
        return units.reshape(g.shape)

    return optax.stateless(lambda updates, params: jax.tree.map(one, updates, params))


@rule
@per_tensor
def centralize(
    output_axis: int = -1,
    *,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """Gradient centralisation: each output unit's gradient minus its mean over the inputs.

    For leaves of two axes or more, g ← g − mean(g) over every axis but `output_axis`, the last in
    Flax, Haiku and here (kernels are inputs × outputs). `optax.centralize` averages over every axis
    but the *first*, which fits PyTorch kernels. On a Flax kernel that is not the paper's rule.

    >>> import jax.numpy as jnp
    >>> tx = centralize()
    >>> tx.update(jnp.array([[1.0, 5.0], [3.0, 5.0]]), tx.init(jnp.ones((2, 2))))[0].tolist()
    [[-1.0, 0.0], [1.0, 0.0]]

    Yong et al., Gradient Centralization: A New Optimization Technique for Deep Neural Networks,
    2020.
    """

    validation.integer("output_axis", output_axis, "centralize", least=None)

    def one(g: jax.Array) -> jax.Array:
        if g.ndim < 2 or not g.size:
            return g
        kept = output_axis % g.ndim
        return g - g.mean(axis=tuple(a for a in range(g.ndim) if a != kept), keepdims=True)

    return optax.stateless(lambda updates, _: jax.tree.map(one, updates))
