"""Networks of images."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo.building import FLAT, IMAGE, layer_norm, linen
from tests.growth.zoo.published.making import (
    gelu,
    keep,
    model,
    relu,
    softmax,
)


class InvertedResidual(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze and excite with hard sigmoid, project."""

    width: int = 4
    expand: int = 6
    squeeze: int = 3
    out: int = 5

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=True)
        x = nn.hard_swish(norm()(nn.Conv(self.width, (3, 3), use_bias=False)(x)))
        y = nn.hard_swish(norm()(nn.Conv(self.expand, (1, 1), use_bias=False)(x)))
        y = nn.Conv(self.expand, (3, 3), feature_group_count=self.expand, use_bias=False)(y)
        y = norm()(y)
        z = nn.avg_pool(y, y.shape[1:3])
        z = nn.Conv(self.squeeze, (1, 1))(z)
        z = nn.hard_sigmoid(nn.Conv(self.expand, (1, 1))(nn.relu(z)))
        y = nn.hard_swish(y * z)
        x = x + norm()(nn.Conv(self.width, (1, 1), use_bias=False)(y))
        x = nn.hard_swish(nn.Conv(self.out, (1, 1))(x)).mean((1, 2))
        return nn.Dense(2)(x)


keep(
    "convolution", "mobilenet v3", linen(InvertedResidual, IMAGE),
    {"width": 4, "expand": 6, "squeeze": 3, "out": 5}, "width expand squeeze out", IMAGE,
)  # fmt: skip


class Inception(nn.Module):
    a: int = 3
    b: int = 4
    c: int = 2
    pooled: int = 5

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            y = [
                nn.Conv(self.a, (1, 1))(x),
                nn.Conv(self.b, (3, 3))(nn.relu(nn.Conv(self.c, (1, 1))(x))),
                nn.Conv(self.pooled, (1, 1))(nn.max_pool(x, (3, 3), (1, 1), "SAME")),
            ]
            x = nn.relu(jnp.concatenate(y, -1))
        return nn.Dense(2)(nn.avg_pool(x, (4, 4), (4, 4)).reshape(x.shape[0], -1))


keep("convolution", "inception",
     linen(Inception, IMAGE), {"a": 3, "b": 4, "c": 2, "pooled": 5}, "a b c pooled",
     IMAGE)  # fmt: skip


@model(
    "convolution", "ghost",
    lambda d, e: {"in": (3, d), "a": (3, 3, d, e), "cheap": (3, 3, 1, 2 * e), "b": (3 * e, d),
                  "out": (d, 2)},
    {"d": 4, "e": 3}, "d e",
    inputs=IMAGE,
)  # fmt: skip
def _(p, s, x):
    """GhostNet: half of the maps by cheap depthwise filters, two for each primary map."""
    conv = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    x = x @ p["in"]
    y = relu(conv(x, p["a"]))
    z = relu(conv(y, p["cheap"], feature_group_count=s["e"]))
    return (x + jnp.concatenate([y, z], -1) @ p["b"]).mean((1, 2)) @ p["out"]


class ShuffleUnit(nn.Module):
    half: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(2 * self.half, (1, 1))(x))
        for _ in range(2):
            a, b = jnp.split(x, 2, -1)
            b = nn.relu(nn.Conv(self.half, (1, 1))(b))
            b = nn.Conv(self.half, (3, 3), feature_group_count=self.half)(b)
            b = nn.relu(nn.Conv(self.half, (1, 1))(b))
            x = jnp.concatenate([a, b], -1)
            n, h, w, c = x.shape
            x = x.reshape(n, h, w, 2, c // 2).swapaxes(3, 4).reshape(n, h, w, c)
        return nn.Dense(2)(x.mean((1, 2)))


keep("convolution", "shufflenet v2", linen(ShuffleUnit, IMAGE), {"half": 4}, "half", IMAGE)


@model(
    "attention", "shifted windows",
    lambda d, h, e, f: {
        "in": (3, d), "g1": (d,), "b1": (d,), "g2": (d,), "b2": (d,), "qkv": (d, 3 * h * e),
        "bqkv": (3 * h * e,), "table": (9, h), "o": (h * e, d), "bo": (d,), "up": (d, f),
        "bup": (f,), "down": (f, d), "gm": (4 * d,), "bm": (4 * d,), "merge": (4 * d, 2 * d),
        "out": (2 * d, 2),
    },
    {"d": 4, "h": 2, "e": 3, "f": 5}, "d h e f",
    inputs=IMAGE, refused=("d x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """Swin: cyclic shift, masked windows, a table of relative positions, patch merging."""
    x = x.reshape(2, 4, 2, 4, 2, 3).mean((2, 4)) @ p["in"]
    b, n, _, d = x.shape
    y = jnp.roll(layer_norm(x, p["g1"], p["b1"]), (-1, -1), (1, 2))
    windows = lambda t: (
        t.reshape(-1, 2, 2, 2, 2, t.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
    ).reshape(-1, 4, t.shape[-1])
    region = np.zeros((1, n, n, 1))
    parts = slice(0, -2), slice(-2, -1), slice(-1, None)
    for i, (r, c) in enumerate((r, c) for r in parts for c in parts):
        region[:, r, c] = i
    region = region.reshape(1, 2, 2, 2, 2, 1).transpose(0, 1, 3, 2, 4, 5).reshape(4, 4)
    mask = np.where(region[:, None] != region[:, :, None], -100.0, 0.0)
    at = np.stack(np.meshgrid(range(2), range(2), indexing="ij")).reshape(2, -1)
    relative = (at[:, :, None] - at[:, None] + 1).transpose(1, 2, 0) @ np.array([3, 1])
    bias = p["table"][relative.reshape(-1)].reshape(4, 4, -1).transpose(2, 0, 1)
    qkv = windows(y) @ p["qkv"] + p["bqkv"]
    q, k, v = qkv.reshape(-1, 4, 3, s["h"], s["e"]).transpose(2, 0, 3, 1, 4)
    a = (q * s["e"] ** -0.5) @ k.swapaxes(-2, -1) + bias
    a = a.reshape(b, 4, s["h"], 4, 4) + mask[None, :, None]
    y = softmax(a.reshape(-1, s["h"], 4, 4)) @ v
    y = y.swapaxes(1, 2).reshape(-1, 4, s["h"] * s["e"]) @ p["o"] + p["bo"]
    y = y.reshape(b, 2, 2, 2, 2, d).transpose(0, 1, 3, 2, 4, 5).reshape(b, n, n, d)
    x = x + jnp.roll(y, (1, 1), (1, 2))
    y = layer_norm(x, p["g2"], p["b2"])
    x = x + gelu(y @ p["up"] + p["bup"]) @ p["down"]
    x = jnp.concatenate([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]],
                        -1)  # fmt: skip
    return (layer_norm(x, p["gm"], p["bm"]) @ p["merge"]).mean((1, 2)) @ p["out"]


class Grid(nn.Module):
    """MaxViT and CoAtNet: MBConv, then attention in blocks and over a grid, by Flax's own layer."""

    width: int = 4
    heads: int = 2
    size: int = 2
    hidden: int = 5

    @nn.compact
    def __call__(self, x):
        b = x.shape[0]
        x = nn.Conv(self.width, (3, 3), (2, 2))(x)
        y = nn.gelu(nn.GroupNorm(num_groups=2)(nn.Conv(self.hidden * 2, (1, 1))(x)))
        x = x + nn.Conv(self.width, (1, 1))(y)
        for grid in (False, True):
            t = x.reshape(b, 2, 2, 2, 2, self.width)
            t = t.transpose(0, 2, 4, 1, 3, 5) if grid else t.transpose(0, 1, 3, 2, 4, 5)
            t = t.reshape(-1, 4, self.width)
            y = nn.LayerNorm()(t)
            y = nn.MultiHeadDotProductAttention(
                num_heads=self.heads, qkv_features=self.heads * self.size
            )(y, y)
            t = t + y
            t = t + nn.Dense(self.width)(nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(t))))
            t = t.reshape(b, 2, 2, 2, 2, self.width)
            t = t.transpose(0, 3, 1, 4, 2, 5) if grid else t.transpose(0, 1, 3, 2, 4, 5)
            x = t.reshape(b, 4, 4, self.width)
        return nn.Dense(2)(nn.LayerNorm()(x.mean((1, 2))))


keep("attention", "grid attention",
     linen(Grid, IMAGE), {"width": 4, "heads": 2, "size": 2, "hidden": 5},
     "width heads size hidden", IMAGE, refused=("hidden x1.5", "all x1.5"))  # fmt: skip


class Distilled(nn.Module):
    """DeiT: class and distillation tokens, two heads; and PVT's reduction of keys."""

    width: int = 4
    heads: int = 2
    size: int = 3
    hidden: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (2, 2), (2, 2), padding="VALID")(x)
        b = x.shape[0]
        reduced = nn.LayerNorm()(nn.Conv(self.width, (2, 2), (2, 2))(x)).reshape(b, -1, self.width)
        x = x.reshape(b, -1, self.width)
        tokens = [
            jnp.tile(self.param(n, nn.initializers.normal(), (1, 1, self.width)), (b, 1, 1))
            for n in ("cls", "dist")
        ]
        x = jnp.concatenate([*tokens, x], 1)
        x = x + self.param("pos", nn.initializers.normal(), (1, 18, self.width))
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadAttention(
            num_heads=self.heads, qkv_features=self.heads * self.size, dropout_rate=0.1,
            deterministic=True,
        )(y, reduced)  # fmt: skip
        x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x))))
        x = nn.LayerNorm()(x)
        return (nn.Dense(3)(x[:, 0]) + nn.Dense(3)(x[:, 1])) / 2


keep("attention", "distilled",
     linen(Distilled, IMAGE), {"width": 4, "heads": 2, "size": 3, "hidden": 5},
     "width heads size hidden", IMAGE)  # fmt: skip


@model(
    "attention", "masked autoencoder",
    lambda d, e, f: {
        "patch": (12, d), "pos": (16, d), "g": (d,), "b": (d,), "up": (d, f), "down": (f, d),
        "join": (d, e), "mask": (e,), "dpos": (16, e), "dg": (e,), "db": (e,), "out": (e, 12),
    },
    {"d": 4, "e": 6, "f": 5}, "d e f",
    inputs=IMAGE,
)  # fmt: skip
def _(p, s, x):
    """MAE: patches dropped by a shuffle and put back with mask tokens, loss on those alone."""
    b = x.shape[0]
    patches = jnp.einsum("bhpwqc->bhwpqc", x.reshape(b, 4, 2, 4, 2, 3)).reshape(b, 16, 12)
    noise = jax.random.uniform(jax.random.key(0), (b, 16))
    order = jnp.argsort(noise, 1)
    back = jnp.argsort(order, 1)
    y = patches @ p["patch"] + p["pos"]
    y = jnp.take_along_axis(y, order[:, :4, None], 1)
    y = y + gelu(layer_norm(y, p["g"], p["b"]) @ p["up"]) @ p["down"]
    y = y @ p["join"]
    y = jnp.concatenate([y, jnp.broadcast_to(p["mask"], (b, 12, s["e"]))], 1)
    y = jnp.take_along_axis(y, back[..., None], 1) + p["dpos"]
    loss = jnp.square(layer_norm(y, p["dg"], p["db"]) @ p["out"] - patches).mean(-1)
    mask = (back >= 4).astype(loss.dtype)
    return ((loss * mask).sum() / mask.sum())[None]


class Up(nn.Module):
    """A diffusion U-Net: time by sinusoids and an MLP, added and as scale and shift; group norms,
    attention in the middle, transposed convolutions on the way up."""

    width: int = 4
    time: int = 5
    groups: int = 2
    heads: int = 2

    @nn.compact
    def __call__(self, x):
        t = jnp.array([3.0, 50.0])
        freq = jnp.exp(-math.log(10000) * jnp.arange(3) / 3)
        emb = jnp.concatenate([jnp.sin(t[:, None] * freq), jnp.cos(t[:, None] * freq)], -1)
        emb = nn.silu(nn.Dense(self.time)(nn.silu(nn.Dense(self.time)(emb))))
        norm = functools.partial(nn.GroupNorm, num_groups=self.groups)

        def block(x, width):
            y = nn.Conv(width, (3, 3))(nn.silu(norm()(x)))
            scale, shift = jnp.split(nn.Dense(2 * width)(emb)[:, None, None], 2, -1)
            y = nn.silu(norm()(y) * (1 + scale) + shift)
            y = nn.Conv(width, (3, 3))(y)
            x = nn.Conv(width, (1, 1))(x) if x.shape[-1] != width else x
            return x + y

        w = self.width * self.groups
        first = x = nn.Conv(w, (3, 3))(x)
        x = second = block(x, w)
        x = nn.Conv(2 * w, (3, 3), (2, 2))(x)
        b, h, _, c = x.shape
        y = norm()(x).reshape(b, h * h, c)
        q, k, v = (nn.Dense(c)(y).reshape(b, h * h, self.heads, -1) for _ in range(3))
        y = nn.dot_product_attention(q, k, v).reshape(b, h, h, c)
        x = block(x + nn.Dense(c)(y), 2 * w)
        x = nn.ConvTranspose(w, (4, 4), (2, 2))(x)
        x = block(jnp.concatenate([x, second], -1), w)
        x = jnp.concatenate([jax.image.resize(x, x.shape, "nearest"), first], -1)
        return nn.Conv(3, (3, 3))(nn.silu(norm()(x)))


keep("convolution", "diffusion", linen(Up, IMAGE), {"width": 3, "time": 5, "groups": 2, "heads": 2},
     "width time", IMAGE, refused=("width x1.5", "all x1.5"))  # fmt: skip


@model(
    "convolution", "style",
    lambda z, w, a, b: {
        "m1": (7, w), "m2": (w, w), "const": (2, 2, a), "s1": (w, a), "bs1": (a,),
        "k1": (3, 3, a, b), "n1": (), "b1": (b,), "s2": (w, b), "bs2": (b,),
        "k2": (1, 1, b, 3), "b2": (3,),
    },
    {"z": 7, "w": 4, "a": 3, "b": 5}, "w a b",
    inputs=FLAT,
)  # fmt: skip
def _(p, s, z):
    """StyleGAN2: weights modulated and demodulated a sample by vmap, noise, upsampling."""
    leaky = lambda t: jax.nn.leaky_relu(t, 0.2) * np.sqrt(2)
    z = z * jax.lax.rsqrt(jnp.mean(z**2, 1, keepdims=True) + 1e-8)
    w = leaky(leaky(z @ p["m1"] / np.sqrt(7)) @ p["m2"] / np.sqrt(s["w"]))
    x = jnp.broadcast_to(p["const"], (z.shape[0], *p["const"].shape))
    noise = jax.random.normal(jax.random.key(0), (z.shape[0], 4, 4, 1))

    def modulated(x, style, kernel, demodulate):
        k = kernel * style[None, None, :, None]
        if demodulate:
            k = k * jax.lax.rsqrt(jnp.sum(jnp.square(k), (0, 1, 2)) + 1e-8)
        return jax.lax.conv_general_dilated(
            x[None], k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]

    x = jax.image.resize(x, (x.shape[0], 4, 4, x.shape[-1]), "bilinear")
    conv = jax.vmap(modulated, (0, 0, None, None))
    x = conv(x, w @ p["s1"] + p["bs1"], p["k1"], True)
    x = leaky(x + p["n1"] * noise + p["b1"])
    return conv(x, w @ p["s2"] + p["bs2"], p["k2"], False) + p["b2"]


class Pyramid(nn.Module):
    """FPN over a small backbone, DeepLab's ASPP, CenterNet's heads."""

    c: int = 4
    width: int = 3
    aspp: int = 5
    head: int = 6

    @nn.compact
    def __call__(self, x):
        c2 = nn.relu(nn.Conv(self.c, (3, 3), (2, 2))(x))
        c3 = nn.relu(nn.Conv(2 * self.c, (3, 3), (2, 2))(c2))
        rates = [nn.relu(nn.Conv(self.aspp, (3, 3), kernel_dilation=r)(c3)) for r in (1, 2)]
        pooled = nn.relu(nn.Conv(self.aspp, (1, 1))(c3.mean((1, 2), keepdims=True)))
        rates.append(jnp.broadcast_to(pooled, rates[0].shape))
        p3 = nn.Conv(self.width, (1, 1))(jnp.concatenate(rates, -1))
        p2 = nn.Conv(self.width, (1, 1))(c2)
        p2 = p2 + jax.image.resize(p3, (x.shape[0], 4, 4, self.width), "bilinear")
        p2 = nn.Conv(self.width, (3, 3))(p2)
        heat = nn.sigmoid(nn.Conv(2, (1, 1))(nn.relu(nn.Conv(self.head, (3, 3))(p2))))
        size = nn.Conv(2, (1, 1))(nn.relu(nn.Conv(self.head, (3, 3))(p2)))
        peaks = jnp.where(nn.max_pool(heat, (3, 3), (1, 1), "SAME") == heat, heat, 0.0)
        return jnp.concatenate([heat, peaks, size], -1)


keep("convolution", "pyramid", linen(Pyramid, IMAGE), {"c": 4, "width": 3, "aspp": 5, "head": 6},
     "c width aspp head", IMAGE)  # fmt: skip
