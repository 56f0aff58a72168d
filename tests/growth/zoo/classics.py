"""What people grow first, of many families; every size of a model is distinct."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.growth.zoo import registry
from tests.growth.zoo.building import (
    FLAT,
    IMAGE,
    PAIR,
    SEQUENCE,
    TOKENS,
    draw,
    linen,
    nnx_build,
    rotate,
)

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


def flax(family, name, module, inputs, base, grown, more=None, refused=None, **call):
    """Adds a Linen module with each of its axes alone, all of them together, and `more` variants.

    Gradients of these, streams behind a LayerNorm that grow to no multiple, are a best guess.
    """
    more, refused, variants = more or {}, refused or {}, {**grown, **(more or {})}
    if len(grown) > 1:
        variants["all"] = {axis: size for sizes in grown.values() for axis, size in sizes.items()}
    build = linen(module, inputs, **call)
    registry.add(
        "zoo", family, name, build, base, variants, inputs, front_end="linen", refused=refused,
        guessed=[variant for variant in more if variant not in refused],
    )  # fmt: skip


_BLOCK = {
    "width": {"width": 12},
    "heads": {"heads": 4},
    "size": {"size": 8},
    "hidden": {"hidden": 10},
}
_ODD = {"odd width": {"width": 11}}
_CHANNELS = {"a": {"a": 6}, "b": {"b": 8}}

for _act in ("relu", "gelu", "tanh", "sigmoid"):
    flax("perceptron", f"mlp {_act}", Mlp, FLAT, {"act": _act}, {"a": {"a": 8}, "b": {"b": 7}})
flax("convolution", "lenet", LeNet, IMAGE, {}, {**_CHANNELS, "hidden": {"hidden": 8}})
flax(
    "convolution",
    "resnet",
    ResNet,
    IMAGE,
    {},
    {"width": {"width": 8}, "inner": {"inner": 5}, "wide": {"wide": 10}},
)
flax(
    "convolution",
    "resnet training",
    ResNet,
    IMAGE,
    {},
    {"width": {"width": 8}, "inner": {"inner": 5}, "wide": {"wide": 10}},
    train=True,
    mutable=("batch_stats",),
)
flax(
    "convolution", "densenet", DenseNet, IMAGE, {}, {"first": {"first": 6}, "growth": {"growth": 6}}
)
flax("convolution", "mobilenet", MobileNet, IMAGE, {}, {"width": {"width": 6}, "wide": {"wide": 7}})
flax(
    "convolution", "convnext", ConvNeXt, IMAGE, {}, {"width": {"width": 8}, "hidden": {"hidden": 9}}
)
flax("convolution", "unet", UNet, IMAGE, {}, _CHANNELS)
flax(
    "convolution",
    "unet with groups",
    UNet,
    IMAGE,
    {"a": 6, "b": 4, "groups": 2},
    {"a": {"a": 12}, "b": {"b": 8}},
)
flax(
    "convolution",
    "group norm",
    GroupNormNet,
    IMAGE,
    {},
    {"groups": {"groups": 4}, "each": {"each": 6}},
)
flax(
    "perceptron",
    "mixer",
    Mixer,
    IMAGE,
    {},
    {"width": {"width": 8}, "tokens": {"tokens": 7}, "channels": {"channels": 9}},
)
flax("attention", "gpt", Gpt, TOKENS, {}, _BLOCK, _ODD)
flax("attention", "gpt merged", Gpt, TOKENS, {"merged": True}, _BLOCK, _ODD)
flax("attention", "gpt scaled", Gpt, TOKENS, {"scaled": True}, _BLOCK, _ODD)
flax("attention", "gpt shared", Gpt, TOKENS, {"shared": True}, _BLOCK, _ODD)
flax(
    "attention",
    "gpt post-norm",
    Gpt,
    TOKENS,
    {"post": True},
    _BLOCK,
    _ODD,
    {"odd width": "the mean of the old units"},
)
flax("attention", "bert", Bert, TOKENS, {}, _BLOCK)
flax("attention", "vit", Vit, IMAGE, {}, _BLOCK, _ODD)
flax(
    "attention",
    "llama",
    Llama,
    TOKENS,
    {},
    {"width": {"width": 12}, "kv": {"kv": 4}, "group": {"group": 6}, "hidden": {"hidden": 8}},
)
flax("attention", "llama rotary", Llama, TOKENS, {}, {"size": {"size": 8}})
flax("attention", "llama odd width", Llama, TOKENS, {}, {"width": {"width": 10}})
flax("attention", "encoder-decoder", EncoderDecoder, PAIR, {}, _BLOCK, _ODD)
flax(
    "mixture", "experts", Experts, FLAT, {}, {"width": {"width": 8}, "hidden": {"hidden": 7}}, _ODD
)
flax("attention", "scanned", Scanned, TOKENS, {}, _BLOCK, _ODD)
flax("recurrent", "gru", Recurrent, SEQUENCE, {}, {"a": {"a": 8}, "b": {"b": 10}})
flax(
    "recurrent",
    "lstm",
    Recurrent,
    SEQUENCE,
    {"cell": "OptimizedLSTMCell"},
    {"a": {"a": 8}, "b": {"b": 7}},
)
registry.add(
    "zoo",
    "perceptron",
    "nnx",
    nnx_build(Nnx),
    {"width": 4, "hidden": 5},
    {"width": {"width": 8}, **_ODD, "hidden": {"hidden": 8}},
    FLAT,
    front_end="nnx",
    guessed=("odd width",),
)
registry.add(
    "zoo",
    "attention",
    "nnx attention",
    nnx_build(NnxAttention),
    {"heads": 2, "size": 4},
    {"heads": {"heads": 4}, "size": {"size": 7}},
    (draw(4, 2, 5, 6),),
    front_end="nnx",
)
registry.add(
    "zoo",
    "perceptron",
    "plain",
    plain_build,
    {"width": 4, "hidden": 5},
    {"width": {"width": 8}, "odd width": {"width": 6}, "hidden": {"hidden": 8}},
    FLAT,
)
