"""What models are made of: inputs, random parameters, and a `build` for each front end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def randomised(shapes: Any, seed: int = 0) -> Any:
    """Every parameter random, biases and norm scales too, so that no test is vacuous."""
    rng = np.random.default_rng(seed)

    def one(path, s):
        if not jnp.issubdtype(s.dtype, jnp.floating):
            return jnp.zeros(s.shape, s.dtype)
        x = rng.normal(size=s.shape)
        fan = np.prod(s.shape[:-1]) if len(s.shape) > 1 else 1.0
        x = x / np.sqrt(fan) if len(s.shape) > 1 else x
        if "var" in jax.tree_util.keystr(path):
            x = np.abs(x) + 0.5
        return jnp.asarray(x, s.dtype)

    return jax.tree_util.tree_map_with_path(one, shapes)


def as_dtype(shapes: Any, dtype) -> Any:
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(
            s.shape, dtype if jnp.issubdtype(s.dtype, jnp.floating) else s.dtype
        ),
        shapes,
    )


def linen(module: Callable[..., nn.Module], inputs: tuple, mutable=(), **call):
    """A `build` for a Linen module; all its variables count as parameters."""

    def build(**sizes):
        model = module(**sizes)
        # Flax makes its parameters in float32.
        single = [
            jax.ShapeDtypeStruct(x.shape, jnp.float32 if x.dtype.kind == "f" else jnp.int32)
            for x in inputs
        ]
        with jax.numpy_dtype_promotion("standard"):  # Flax mixes float32 and float64 in its norms
            shapes = jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x, **call), *single)

        def fn(variables, *args):
            with jax.numpy_dtype_promotion("standard"):
                out = model.apply(variables, *args, **call, mutable=list(mutable) or False)
            return out[0] if mutable else out

        return fn, shapes

    return build


def nnx_build(module, pure=False):
    """A `build` for an NNX module; `pure`: its parameters are a dict of arrays."""

    def build(**sizes):
        graph, state = nnx.split(nnx.eval_shape(lambda: module(**sizes)))
        state = nnx.to_pure_dict(state) if pure else state

        def fn(params, *args):
            with jax.numpy_dtype_promotion("standard"):
                return nnx.merge(graph, params)(*args)

        return fn, state

    return build


def equinox_build(module):
    """Arrays apart from the rest, as Equinox does it; over a batch."""

    def build(**sizes):
        model = eqx.filter_eval_shape(lambda: module(**sizes))
        arrays, rest = eqx.partition(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))

        def fn(params, *args):
            with jax.numpy_dtype_promotion("standard"):
                return jax.vmap(eqx.combine(params, rest))(*args)

        return fn, arrays

    return build


def nested(shapes: Any, dtype: Any = jnp.float32) -> Any:
    """A tree of tuples as one of shapes."""
    struct = lambda shape: jax.ShapeDtypeStruct(shape, dtype)
    return jax.tree.map(struct, shapes, is_leaf=lambda node: isinstance(node, tuple))


def standard(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function under JAX's own promotion of dtypes."""

    @functools.wraps(fn)
    def run(*args):
        with jax.numpy_dtype_promotion("standard"):
            return fn(*args)

    return run


def functions(fn, shapes):
    """A `build` from `fn(params, sizes, *inputs)` and `shapes(**sizes) -> tree of tuples`."""

    def build(**sizes):
        return lambda params, *args: fn(params, sizes, *args), nested(shapes(**sizes))

    return build


def layer_norm(x, g, b):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * g + b


def rms(x, g, eps=1e-6):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * g


def heads(x, h):
    return x.reshape(*x.shape[:-1], h, x.shape[-1] // h)


def rotate(x, base=10000.0):
    """Rotary positions on the last axis, in halves."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)[None]
    cos, sin = (jnp.asarray(f(angle)[:, None, :], x.dtype) for f in (np.cos, np.sin))
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


IMAGE = (draw(1, 2, 8, 8, 3),)
FLAT = (draw(2, 5, 7),)
TOKENS = (np.array([[0, 3, 10, 4, 7], [2, 2, 9, 1, 5]]),)
PAIR = (TOKENS[0], np.array([[1, 6, 8, 0], [3, 10, 2, 2]]))
SEQUENCE = (draw(3, 2, 5, 3),)
