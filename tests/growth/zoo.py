"""Models of many families, small enough to grow in a test; every size of a model is distinct.

A `Model` builds `fn(params, *inputs)` and the shapes of its parameters from its sizes, and says
which sizes may grow, alone and together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Model(NamedTuple):
    """One architecture.

    Attributes:
      build: sizes -> (fn, shapes of the parameters).
      base: the small model's sizes.
      grown: name -> sizes that change.
      inputs: what the function takes after its parameters.
    """

    build: Callable[..., tuple[Callable, Any]]
    base: dict[str, Any]
    grown: dict[str, dict[str, Any]]
    inputs: tuple


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


# --- perceptrons ---------------------------------------------------------------------------------


class Mlp(nn.Module):
    act: str = "gelu"
    a: int = 4
    b: int = 5

    @nn.compact
    def __call__(self, x):
        for width in (self.a, self.b):
            x = getattr(nn, self.act)(nn.Dense(width)(x))
        return nn.Dense(3)(x)


class Nnx(nnx.Module):
    def __init__(self, width: int, hidden: int):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Linear(7, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)
        self.out = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        x = x + self.down(nnx.gelu(self.up(self.norm(x))))
        return self.out(x)


class NnxAttention(nnx.Module):
    def __init__(self, heads: int, size: int):
        rngs = nnx.Rngs(0)
        self.attend = nnx.MultiHeadAttention(
            heads, 6, heads * size, 6, rngs=rngs, decode=False, deterministic=True
        )
        self.norm = nnx.RMSNorm(6, rngs=rngs)

    def __call__(self, x):
        return self.norm(x + self.attend(x))


def nnx_build(module):
    def build(**sizes):
        graph, state = nnx.split(nnx.eval_shape(lambda: module(**sizes)))

        def fn(params, *args):
            with jax.numpy_dtype_promotion("standard"):
                return nnx.merge(graph, params)(*args)

        return fn, state

    return build


def plain_build(width, hidden):
    shapes = {
        "embed": jax.ShapeDtypeStruct((7, width), jnp.float32),
        "layers": [
            {
                "gain": jax.ShapeDtypeStruct((width,), jnp.float32),
                "up": jax.ShapeDtypeStruct((width, hidden), jnp.float32),
                "gate": jax.ShapeDtypeStruct((width, hidden), jnp.float32),
                "down": jax.ShapeDtypeStruct((hidden, width), jnp.float32),
            }
            for _ in range(2)
        ],
        "gain": jax.ShapeDtypeStruct((width,), jnp.float32),
    }

    def norm(x, gain):
        # A gain stored as its distance from 1.
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-5)
        return x * (1 + gain)

    def fn(params, x):
        x = x @ params["embed"]
        for layer in params["layers"]:
            y = norm(x, layer["gain"])
            x = x + (jax.nn.silu(y @ layer["gate"]) * (y @ layer["up"])) @ layer["down"]
        return norm(x, params["gain"]) @ params["embed"].T

    return fn, shapes


# --- convolutions --------------------------------------------------------------------------------


def pool(x):
    return nn.max_pool(x, (2, 2), (2, 2))


class LeNet(nn.Module):
    a: int = 3
    b: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, x):
        x = pool(nn.relu(nn.Conv(self.a, (3, 3))(x)))
        x = nn.avg_pool(nn.tanh(nn.Conv(self.b, (3, 3))(x)), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(3)(nn.sigmoid(nn.Dense(self.hidden)(x)))


class ResNet(nn.Module):
    width: int = 4
    inner: int = 3
    wide: int = 5

    @nn.compact
    def __call__(self, x, train=False):
        def norm(y):
            return nn.BatchNorm(not train)(y)

        x = nn.relu(norm(nn.Conv(self.width, (3, 3), use_bias=False)(x)))
        for out, strides in ((self.width, 1), (self.wide, 2)):
            y = nn.relu(norm(nn.Conv(self.inner, (3, 3), strides, use_bias=False)(x)))
            y = norm(nn.Conv(out, (3, 3), use_bias=False)(y))
            if out != x.shape[-1]:
                x = norm(nn.Conv(out, (1, 1), strides, use_bias=False)(x))
            x = nn.relu(x + y)
        return nn.Dense(3)(x.mean((1, 2)))


class DenseNet(nn.Module):
    first: int = 4
    growth: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.first, (3, 3))(x)
        for _ in range(3):
            y = nn.relu(nn.BatchNorm(True)(x))
            x = jnp.concatenate([x, nn.Conv(self.growth, (3, 3))(y)], -1)
        return nn.Dense(3)(nn.relu(nn.BatchNorm(True)(x)).mean((1, 2)))


class MobileNet(nn.Module):
    width: int = 3
    wide: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.BatchNorm(True)(nn.Conv(self.width, (3, 3))(x)))
        y = nn.relu6(nn.Conv(self.wide, (1, 1))(x))
        y = nn.Conv(self.wide, (3, 3), feature_group_count=self.wide)(y)
        y = nn.relu6(nn.BatchNorm(True)(y))
        x = x + nn.Conv(self.width, (1, 1))(y)
        return nn.Dense(3)(x.mean((1, 2)))


class ConvNeXt(nn.Module):
    width: int = 4
    hidden: int = 6

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Conv(self.width, (2, 2), (2, 2))(x))
        for i in range(2):
            y = nn.Conv(self.width, (3, 3), feature_group_count=self.width)(x)
            y = nn.Dense(self.width)(nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(y))))
            x = x + y * self.param(f"gamma{i}", nn.initializers.ones, (self.width,))
        return nn.Dense(3)(nn.LayerNorm()(x.mean((1, 2))))


class UNet(nn.Module):
    a: int = 3
    b: int = 4
    groups: int = 0

    @nn.compact
    def __call__(self, x):
        def block(y, width):
            y = nn.Conv(width, (3, 3))(y)
            return nn.silu(nn.GroupNorm(self.groups)(y) if self.groups else y)

        skip = block(x, self.a)
        deep = block(pool(skip), self.b)
        up = nn.ConvTranspose(self.a, (2, 2), (2, 2))(deep)
        grown = jax.image.resize(deep, (*skip.shape[:3], deep.shape[-1]), "bilinear")
        return nn.Conv(3, (1, 1))(block(jnp.concatenate([skip, up, grown], -1), self.a))


class GroupNormNet(nn.Module):
    groups: int = 2
    each: int = 3

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.GroupNorm(self.groups)(nn.Conv(self.groups * self.each, (3, 3))(x)))
        return nn.Dense(3)(x.mean((1, 2)))


class Mixer(nn.Module):
    width: int = 4
    tokens: int = 5
    channels: int = 6

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (4, 4), (4, 4))(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        y = nn.Dense(x.shape[1])(nn.gelu(nn.Dense(self.tokens)(y)))
        x = x + jnp.swapaxes(y, 1, 2)
        x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(self.channels)(nn.LayerNorm()(x))))
        return nn.Dense(3)(nn.LayerNorm()(x).mean(1))


# --- transformers --------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head attention written out, queries, keys and values in one projection if asked for."""

    heads: int
    size: int
    merged: bool = False

    @nn.compact
    def __call__(self, x, other=None, mask=None, bias=None):
        width, inner = x.shape[-1], self.heads * self.size
        if self.merged:
            q, k, v = jnp.split(nn.Dense(3 * inner, name="qkv")(x), 3, -1)
        else:
            other = x if other is None else other
            q = nn.Dense(inner, name="q")(x)
            k, v = (nn.Dense(inner, name=n)(other) for n in "kv")
        q, k, v = (t.reshape(*t.shape[:-1], self.heads, self.size) for t in (q, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(self.size)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
        y = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), v)
        return nn.Dense(width, name="o")(y.reshape(*y.shape[:-2], inner))


class FeedForward(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(self.hidden)(x)))


class Gpt(nn.Module):
    width: int = 6
    heads: int = 2
    size: int = 4
    hidden: int = 5
    merged: bool = False
    scaled: bool = False
    shared: bool = False
    post: bool = False

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(11, self.width)
        x = embed(tokens)
        if self.scaled:
            x = x * math.sqrt(self.width)
        x = x + self.param("places", nn.initializers.normal(), (tokens.shape[1], self.width))
        mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
        attend = Attention(self.heads, self.size, self.merged) if self.shared else None
        for _ in range(2):
            block = attend or Attention(self.heads, self.size, self.merged)
            if self.post:
                x = nn.LayerNorm()(x + block(x, mask=mask))
                x = nn.LayerNorm()(x + FeedForward(self.hidden)(x))
            else:
                x = x + block(nn.LayerNorm()(x), mask=mask)
                x = x + FeedForward(self.hidden)(nn.LayerNorm()(x))
        return embed.attend(nn.LayerNorm()(x))


class Bert(nn.Module):
    width: int = 6
    heads: int = 2
    size: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, self.width)(tokens) + nn.Embed(5, self.width)(jnp.arange(5))
        x = nn.LayerNorm(epsilon=1e-3)(x)
        for _ in range(2):
            x = nn.LayerNorm()(x + Attention(self.heads, self.size)(x))
            x = nn.LayerNorm()(x + FeedForward(self.hidden)(x))
        return nn.Dense(3)(nn.tanh(nn.Dense(self.width)(x[:, 0])))


class Vit(nn.Module):
    width: int = 6
    heads: int = 2
    size: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (4, 4), (4, 4))(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        cls = self.param("cls", nn.initializers.normal(), (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], 1)
        x = x + self.param("places", nn.initializers.normal(), (1, x.shape[1], self.width))
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(
                self.heads, qkv_features=self.heads * self.size, deterministic=True
            )(nn.LayerNorm()(x))
            x = x + FeedForward(self.hidden)(nn.LayerNorm()(x))
        return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])


def rotate(x, base=10000.0):
    """Rotary positions on the last axis, in halves."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)[None]
    cos, sin = (jnp.asarray(f(angle)[:, None, :], x.dtype) for f in (np.cos, np.sin))
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


class Llama(nn.Module):
    width: int = 6
    kv: int = 2
    group: int = 3
    size: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, tokens):
        def dense(n):
            return nn.Dense(n, use_bias=False)

        x = nn.Embed(11, self.width)(tokens)
        mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
        for _ in range(2):
            y = nn.RMSNorm()(x)
            q = dense(self.kv * self.group * self.size)(y)
            q = rotate(q.reshape(*q.shape[:2], self.kv * self.group, self.size))
            k, v = (
                dense(self.kv * self.size)(y).reshape(*y.shape[:2], self.kv, self.size)
                for _ in range(2)
            )
            k, v = (jnp.repeat(t, self.group, 2) for t in (rotate(k), v))
            s = jnp.einsum("bqhd,bkhd->bhqk", q, k) * self.size**-0.5
            p = nn.softmax(jnp.where(mask, s, -jnp.inf))
            o = jnp.einsum("bhqk,bkhd->bqhd", p, v)
            x = x + dense(self.width)(o.reshape(*o.shape[:2], -1))
            y = nn.RMSNorm()(x)
            x = x + dense(self.width)(nn.silu(dense(self.hidden)(y)) * dense(self.hidden)(y))
        return dense(11)(nn.RMSNorm()(x))


class EncoderDecoder(nn.Module):
    width: int = 6
    heads: int = 2
    size: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, source, target):
        embed = nn.Embed(11, self.width)

        def bias(name, n):
            table = self.param(name, nn.initializers.normal(), (7, self.heads))
            distance = np.clip(np.arange(n)[None] - np.arange(n)[:, None], -3, 3) + 3
            return jnp.moveaxis(table[distance], -1, 0)[None]

        attend = {"heads": self.heads, "size": self.size}
        x, y = embed(source), embed(target)
        near = bias("near", source.shape[1])
        for _ in range(2):
            x = x + Attention(**attend)(nn.LayerNorm()(x), bias=near)
            x = x + FeedForward(self.hidden)(nn.LayerNorm()(x))
        x = nn.LayerNorm()(x)
        mask = jnp.tril(jnp.ones((target.shape[1],) * 2, bool))
        y = y + Attention(**attend)(nn.LayerNorm()(y), mask=mask, bias=bias("far", target.shape[1]))
        y = y + Attention(**attend)(nn.LayerNorm()(y), x)
        y = y + FeedForward(self.hidden)(nn.LayerNorm()(y))
        return nn.Dense(11)(nn.LayerNorm()(y))


class Experts(nn.Module):
    width: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        y = nn.LayerNorm()(x)
        gates = nn.softmax(nn.Dense(3)(y))
        top, which = jax.lax.top_k(gates, 2)
        top = top / top.sum(-1, keepdims=True)
        chosen = jnp.einsum("bk,bke->be", top, jax.nn.one_hot(which, 3, dtype=top.dtype))
        up = self.param("up", nn.initializers.normal(), (3, self.width, self.hidden))
        down = self.param("down", nn.initializers.normal(), (3, self.hidden, self.width))
        h = nn.gelu(jnp.einsum("bd,edf->bef", y, up))
        x = x + jnp.einsum("bef,efd,be->bd", h, down, chosen)
        return nn.Dense(2)(nn.LayerNorm()(x))


class Scanned(nn.Module):
    width: int = 6
    heads: int = 2
    size: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, tokens):
        sizes = self.heads, self.size, self.hidden

        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                x = x + Attention(sizes[0], sizes[1], merged=True)(nn.LayerNorm()(x))
                return x + FeedForward(sizes[2])(nn.LayerNorm()(x)), None

        stack = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = stack()(nn.Embed(11, self.width)(tokens), None)
        return nn.Dense(11)(nn.LayerNorm()(x))


# --- recurrence ----------------------------------------------------------------------------------


class Recurrent(nn.Module):
    cell: str = "GRUCell"
    a: int = 4
    b: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.RNN(getattr(nn, self.cell)(self.a, param_dtype=x.dtype))(x)
        x = nn.RNN(getattr(nn, self.cell)(self.b, param_dtype=x.dtype))(x)
        return nn.Dense(3)(x[:, -1])


IMAGE = (draw(1, 2, 8, 8, 3),)
FLAT = (draw(2, 5, 7),)
TOKENS = (np.array([[0, 3, 10, 4, 7], [2, 2, 9, 1, 5]]),)
PAIR = (TOKENS[0], np.array([[1, 6, 8, 0], [3, 10, 2, 2]]))
SEQUENCE = (draw(3, 2, 5, 3),)


def _model(module, inputs, base, grown, **call) -> Model:
    together: dict[str, Any] = {}
    for sizes in grown.values():
        together |= sizes
    if len(grown) > 1:
        grown = {**grown, "all": together}
    return Model(linen(module, inputs, **call), base, grown, inputs)


_BLOCK = {
    "width": {"width": 12},
    "heads": {"heads": 4},
    "size": {"size": 8},
    "hidden": {"hidden": 10},
}
_CHANNELS = {"a": {"a": 6}, "b": {"b": 8}}

MODELS: dict[str, Model] = {
    **{
        f"mlp {act}": _model(Mlp, FLAT, {"act": act}, {"a": {"a": 8}, "b": {"b": 7}})
        for act in ("relu", "gelu", "tanh", "sigmoid")
    },
    "lenet": _model(LeNet, IMAGE, {}, {**_CHANNELS, "hidden": {"hidden": 8}}),
    "resnet": _model(
        ResNet, IMAGE, {}, {"width": {"width": 8}, "inner": {"inner": 5}, "wide": {"wide": 10}}
    ),
    "resnet training": _model(
        ResNet, IMAGE, {}, {"width": {"width": 8}, "inner": {"inner": 5}, "wide": {"wide": 10}},
        train=True, mutable=("batch_stats",),
    ),
    "densenet": _model(DenseNet, IMAGE, {}, {"first": {"first": 6}, "growth": {"growth": 6}}),
    "mobilenet": _model(MobileNet, IMAGE, {}, {"width": {"width": 6}, "wide": {"wide": 7}}),
    "convnext": _model(ConvNeXt, IMAGE, {}, {"width": {"width": 8}, "hidden": {"hidden": 9}}),
    "unet": _model(UNet, IMAGE, {}, _CHANNELS),
    "unet with groups": _model(UNet, IMAGE, {"a": 6, "b": 4, "groups": 2},
                               {"a": {"a": 12}, "b": {"b": 8}}),
    "group norm": _model(GroupNormNet, IMAGE, {}, {"groups": {"groups": 4}, "each": {"each": 6}}),
    "mixer": _model(Mixer, IMAGE, {}, {"width": {"width": 8}, "tokens": {"tokens": 7},
                                       "channels": {"channels": 9}}),
    "gpt": _model(Gpt, TOKENS, {}, _BLOCK),
    "gpt merged": _model(Gpt, TOKENS, {"merged": True}, _BLOCK),
    "gpt scaled": _model(Gpt, TOKENS, {"scaled": True}, _BLOCK),
    "gpt shared": _model(Gpt, TOKENS, {"shared": True}, _BLOCK),
    "gpt post-norm": _model(Gpt, TOKENS, {"post": True}, _BLOCK),
    "bert": _model(Bert, TOKENS, {}, _BLOCK),
    "vit": _model(Vit, IMAGE, {}, _BLOCK),
    "llama": _model(
        Llama, TOKENS, {},
        {"width": {"width": 12}, "kv": {"kv": 4}, "group": {"group": 6}, "hidden": {"hidden": 8}},
    ),
    "llama rotary": _model(Llama, TOKENS, {}, {"size": {"size": 8}}),
    "llama odd width": _model(Llama, TOKENS, {}, {"width": {"width": 10}}),
    "encoder-decoder": _model(EncoderDecoder, PAIR, {}, _BLOCK),
    "experts": _model(Experts, FLAT, {}, {"width": {"width": 8}, "hidden": {"hidden": 7}}),
    "scanned": _model(Scanned, TOKENS, {}, _BLOCK),
    "gru": _model(Recurrent, SEQUENCE, {}, {"a": {"a": 8}, "b": {"b": 10}}),
    "lstm": _model(
        Recurrent, SEQUENCE, {"cell": "OptimizedLSTMCell"}, {"a": {"a": 8}, "b": {"b": 7}}
    ),
    "nnx": Model(nnx_build(Nnx), {"width": 4, "hidden": 5},
                 {"width": {"width": 8}, "hidden": {"hidden": 8}}, FLAT),
    "nnx attention": Model(nnx_build(NnxAttention), {"heads": 2, "size": 4},
                           {"heads": {"heads": 4}, "size": {"size": 7}}, (draw(4, 2, 5, 6),)),
    "plain": Model(plain_build, {"width": 4, "hidden": 5},
                   {"width": {"width": 8}, "odd width": {"width": 6}, "hidden": {"hidden": 8}},
                   FLAT),
}  # fmt: skip
