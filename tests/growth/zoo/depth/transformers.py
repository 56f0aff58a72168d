"""Transformers that gain layers, as plain functions and in Linen."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo.building import linen
from tests.growth.zoo.depth.making import FEW, add, model

F64 = {"param_dtype": jnp.float64}


def rms(x, scale):
    return scale * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def rotate(x):
    t, d = x.shape[1], x.shape[-1] // 2
    angle = jnp.arange(t)[:, None] / 100.0 ** (jnp.arange(d) / d)
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    a, b = x[..., :d], x[..., d:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def transformer_shapes(width, heads, hidden, depth):
    layer = {
        "norm1": (width,), "q": (width, heads, 4), "k": (width, heads // 2, 4),
        "v": (width, heads // 2, 4), "o": (heads, 4, width), "norm2": (width,),
        "gate": (width, hidden), "up": (width, hidden), "down": (hidden, width),
    }  # fmt: skip
    return {"embed": (11, width), "layers": [layer] * depth, "norm": (width,)}


@model(
    "attention", "rotary transformer", transformer_shapes,
    {"width": 8, "heads": 4, "hidden": 12, "depth": 2},
    {
        "deeper": {"depth": 5},
        "wider": {"width": 16, "hidden": 24},
        "wider too": {"width": 16, "heads": 8, "hidden": 24, "depth": 4},
    },
    np.random.default_rng(1).integers(0, 11, (4, 7), np.int32),
)  # fmt: skip
def _(params, tokens):
    """Pre-norm, RMSNorm, RoPE, grouped queries, SwiGLU, tied embeddings."""
    x = params["embed"][tokens]
    t = tokens.shape[1]
    mask = jnp.tril(jnp.ones((t, t), bool))
    for p in params["layers"]:
        h = rms(x, p["norm1"])
        q, k = (rotate(jnp.einsum("btd,dhk->bthk", h, p[n])) for n in ("q", "k"))
        v = jnp.einsum("btd,dhk->bthk", h, p["v"])
        group = q.shape[2] // k.shape[2]
        q = q.reshape(*q.shape[:2], k.shape[2], group, q.shape[3])
        scores = jnp.einsum("bqhgk,bshk->bhgqs", q, k) / np.sqrt(q.shape[-1])
        scores = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), -1)
        mixed = jnp.einsum("bhgqs,bshk->bqhgk", scores, v)
        mixed = mixed.reshape(*mixed.shape[:2], -1, mixed.shape[-1])
        x = x + jnp.einsum("bthk,hkd->btd", mixed, p["o"])
        h = rms(x, p["norm2"])
        x = x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    return rms(x, params["norm"]) @ params["embed"].T


class TiedBlock(nn.Module):
    width: int
    heads: int

    @nn.compact
    def __call__(self, x, _):
        h = nn.LayerNorm(dtype=jnp.float64, **F64)(x)
        q, k, v = (nn.DenseGeneral((self.heads, 4), name=n, **F64)(h) for n in "qkv")
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2.0
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), v)
        x = x + nn.DenseGeneral(self.width, axis=(-2, -1), name="o", **F64)(mixed)
        h = nn.LayerNorm(dtype=jnp.float64, **F64)(x)
        return x + nn.Dense(self.width, **F64)(nn.gelu(nn.Dense(3 * self.width, **F64)(h))), None


class Tied(nn.Module):
    """The table of tokens is the last layer, too; blocks with names, or stacked by `nn.scan`."""

    width: int = 8
    depth: int = 2
    heads: int = 2
    stacked: bool = False

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, self.width, **F64)
        x = embed(tokens)
        if self.stacked:
            stack = nn.scan(
                TiedBlock, variable_axes={"params": 0}, split_rngs={"params": True},
                length=self.depth,
            )  # fmt: skip
            x, _ = stack(self.width, self.heads, name="ScanBlock_0")(x, None)
        else:
            for i in range(self.depth):
                x, _ = TiedBlock(self.width, self.heads, name=f"layer_{i}")(x, None)
        return embed.attend(nn.LayerNorm(dtype=jnp.float64, **F64)(x))


TOKENS = np.random.default_rng(2).integers(0, 7, (3, 5), np.int32)
for _stacked in (False, True):
    add(
        "attention", f"tied{', under a scan' if _stacked else ''}", linen(Tied, (TOKENS,)),
        {"stacked": _stacked}, {"wider too": {"width": 16, "depth": 4, "heads": 4}}, TOKENS,
        hows=FEW, front_end="linen",
    )  # fmt: skip
