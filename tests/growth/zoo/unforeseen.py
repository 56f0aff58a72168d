"""Architectures that the growth rules were not written with: the method must find them by itself.

Plain functions of a dict of arrays, so that an odd construction shows plainly.
"""

from __future__ import annotations

import functools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo import registry
from tests.growth.zoo.building import (
    FLAT,
    IMAGE,
    SEQUENCE,
    TOKENS,
    draw,
    equinox_build,
    functions,
    heads,
    layer_norm,
    linen,
    rms,
)

gelu, silu, softmax = jax.nn.gelu, jax.nn.silu, jax.nn.softmax


# --- attention and its kin -----------------------------------------------------------------------


def dot_product_attention(p, s, x):
    x = x @ p["in"]
    y = rms(x, p["g"])
    q = heads(y @ p["q"], s["h"])
    k, v = heads(y @ p["k"], s["kv"]), heads(y @ p["v"], s["kv"])
    with jax.numpy_dtype_promotion("standard"):  # it mixes float32 and float64
        o = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return rms(x + o.reshape(*x.shape[:-1], -1) @ p["o"], p["g2"]) @ p["out"]


def dot_product_shapes(d, h, kv, hd):
    return {
        "in": (3, d),
        "g": (d,),
        "g2": (d,),
        "q": (d, h * hd),
        "k": (d, kv * hd),
        "v": (d, kv * hd),
        "o": (h * hd, d),
        "out": (d, 2),
    }


def parallel_block(p, s, x):
    """PaLM: attention and feed-forward side by side from one projection, multi-query, QK norm,
    soft-capped logits, an interleaved rotary table."""
    x = x @ p["in"]
    y = rms(x, 1 + p["g"])
    n, hd, f = s["h"] * s["hd"], s["hd"], s["f"]
    q, k, v, up, gate = jnp.split(y @ p["fused"], np.cumsum([n, hd, hd, f]), -1)
    q = rms(heads(q, s["h"]), p["gq"])
    k = rms(k, p["gk"])

    def turn(t):
        a, b = t[..., ::2], t[..., 1::2]
        angle = np.arange(x.shape[1])[:, None] * 100.0 ** (-np.arange(hd // 2) * 2 / hd)
        c, si = (jnp.asarray(fn(angle), x.dtype) for fn in (np.cos, np.sin))
        if t.ndim == 4:
            c, si = c[:, None], si[:, None]
        return jnp.stack([a * c - b * si, a * si + b * c], -1).reshape(t.shape)

    scores = jnp.einsum("bqhd,bkd->bhqk", turn(q), turn(k)) / np.sqrt(hd)
    w = softmax(5.0 * jnp.tanh(scores / 5.0))
    o = jnp.einsum("bhqk,bkd->bqhd", w, v).reshape(*x.shape[:2], n)
    x = x + jnp.concatenate([o, up * silu(gate)], -1) @ p["o"]
    logits = rms(x, 1 + p["gl"]) @ p["out"]
    return 30.0 * jnp.tanh(logits / 30.0)


def parallel_shapes(d, h, hd, f):
    return {
        "in": (3, d),
        "g": (d,),
        "gl": (d,),
        "fused": (d, h * hd + 2 * hd + 2 * f),
        "gq": (hd,),
        "gk": (hd,),
        "o": (h * hd + f, d),
        "out": (d, 2),
    }


def t5(p, s, tokens):
    """T5: relative bias in buckets, RMS norms, no scale in the scores, tied with d^-1/2."""
    d = s["d"]
    x = p["emb"][tokens]
    distance = np.clip(np.arange(5)[None] - np.arange(5)[:, None], -3, 3) + 3
    bias = jnp.transpose(p["bias"][distance], (2, 0, 1))
    y = rms(x, p["g"])
    q, k, v = (heads(y @ p[n], s["h"]) for n in "qkv")
    w = softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias)
    x = x + jnp.einsum("bhqk,bkhd->bqhd", w, v).reshape(*x.shape[:2], -1) @ p["o"]
    y = rms(x, p["g2"])
    x = x + (gelu(y @ p["wi"]) * (y @ p["wu"])) @ p["wo"]
    return (rms(x, p["gl"]) * d**-0.5) @ p["emb"].T


def t5_shapes(d, h, hd, f):
    return {
        "emb": (11, d),
        "bias": (7, h),
        "g": (d,),
        "g2": (d,),
        "gl": (d,),
        **dict.fromkeys("qkv", (d, h * hd)),
        "o": (h * hd, d),
        "wi": (d, f),
        "wu": (d, f),
        "wo": (f, d),
    }


def perceiver(p, s, x):
    x = x @ p["in"]
    z = jnp.broadcast_to(p["latents"], (x.shape[0], *p["latents"].shape))
    for _ in range(2):  # one set of weights, twice
        q = heads(layer_norm(z, p["g"], p["b"]) @ p["q"], s["h"])
        k, v = heads(x @ p["k"], s["h"]), heads(x @ p["v"], s["h"])
        w = softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1]).astype(x.dtype))
        z = z + jnp.einsum("bhqk,bkhd->bqhd", w, v).reshape(*z.shape[:2], -1) @ p["o"]
    return layer_norm(z, p["g2"], p["b2"]).mean(1) @ p["out"]


def perceiver_shapes(d, h, hd, c):
    return {
        "in": (3, c),
        "latents": (4, d),
        "g": (d,),
        "b": (d,),
        "g2": (d,),
        "b2": (d,),
        "q": (d, h * hd),
        "k": (c, h * hd),
        "v": (c, h * hd),
        "o": (h * hd, d),
        "out": (d, 2),
    }


def linear_attention(p, s, x):
    """Linear attention with a running state (a scan over time), elu + 1 as the feature map."""
    x = x @ p["in"]
    q, k, v = (heads(x @ p[n], s["h"]) for n in "qkv")
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1

    def step(carry, t):
        state, total = carry
        qt, kt, vt = t
        state = state + jnp.einsum("bhd,bhe->bhde", kt, vt)
        total = total + kt
        y = jnp.einsum("bhd,bhde->bhe", qt, state)
        return (state, total), y / jnp.einsum("bhd,bhd->bh", qt, total)[..., None]

    b, _, h, hd = q.shape
    init = jnp.zeros((b, h, hd, hd), x.dtype), jnp.zeros((b, h, hd), x.dtype)
    _, y = jax.lax.scan(step, init, tuple(jnp.moveaxis(t, 1, 0) for t in (q, k, v)))
    y = jnp.moveaxis(y, 0, 1).reshape(*x.shape[:2], -1)
    return rms(x + y @ p["o"], p["g"]) @ p["out"]


def linear_attention_shapes(d, h, hd):
    return {
        "in": (3, d),
        **dict.fromkeys("qkv", (d, h * hd)),
        "o": (h * hd, d),
        "g": (d,),
        "out": (d, 2),
    }


def swin(p, s, x):
    """Windows by reshapes and transposes, a cyclic shift, patch merging."""
    b, n, _, _ = x.shape
    x = x @ p["in"]
    d = x.shape[-1]
    x = jnp.roll(x, (-1, -1), (1, 2))
    w = x.reshape(b, n // 2, 2, n // 2, 2, d).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, d)
    qkv = (layer_norm(w, p["g"], p["b"]) @ p["qkv"]).reshape(-1, 4, 3, s["h"], s["hd"])
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    a = softmax(q @ jnp.swapaxes(k, -1, -2) * s["hd"] ** -0.5 + p["bias"][None])
    w = w + (a @ v).transpose(0, 2, 1, 3).reshape(-1, 4, s["h"] * s["hd"]) @ p["o"]
    x = w.reshape(b, n // 2, n // 2, 2, 2, d).transpose(0, 1, 3, 2, 4, 5).reshape(b, n, n, d)
    x = jnp.roll(x, (1, 1), (1, 2))
    parts = [x[:, i::2, j::2] for i in range(2) for j in range(2)]
    x = layer_norm(jnp.concatenate(parts, -1), p["gm"], p["bm"]) @ p["merge"]
    return x.mean((1, 2)) @ p["out"]


def swin_shapes(d, h, hd, e):
    return {
        "in": (3, d),
        "g": (d,),
        "b": (d,),
        "qkv": (d, 3 * h * hd),
        "bias": (h, 4, 4),
        "o": (h * hd, d),
        "gm": (4 * d,),
        "bm": (4 * d,),
        "merge": (4 * d, e),
        "out": (e, 2),
    }


def adaptive_norm(p, s, x):
    """DiT: shift, scale and gate from a condition, chunked from one projection; sinusoidal times
    that meet a projection before they meet anything that grows."""
    c = jnp.concatenate([jnp.sin(x[:, :, 0] * 3), jnp.cos(x[:, :, 0] * 3)], -1)
    c = silu(c @ p["c1"]) @ p["c2"]
    x = x @ p["in"]
    shift, scale, gate = (t[:, None] for t in jnp.split(silu(c) @ p["ada"] + p["bada"], 3, -1))
    y = layer_norm(x, 1.0, 0.0) * (1 + scale) + shift
    x = x + gate * (gelu(y @ p["up"]) @ p["down"])
    return layer_norm(x, 1.0, 0.0) @ p["out"]


def adaptive_shapes(d, f, c):
    return {"c1": (10, c), "c2": (c, c), "in": (3, d), "ada": (c, 3 * d), "bada": (3 * d,),
            "up": (d, f), "down": (f, d), "out": (d, 2)}  # fmt: skip


# --- mixing without attention --------------------------------------------------------------------


def gmlp(p, s, x):
    x = x @ p["in"]
    u, v = jnp.split(gelu(layer_norm(x, p["g"], p["b"]) @ p["up"]), 2, -1)
    v = layer_norm(v, p["gv"], p["bv"])
    v = jnp.einsum("btf,st->bsf", v, p["time"]) + p["btime"][:, None]
    return (x + (u * v) @ p["down"]).mean(1) @ p["out"]


def gmlp_shapes(d, f):
    return {
        "in": (3, d),
        "g": (d,),
        "b": (d,),
        "up": (d, 2 * f),
        "gv": (f,),
        "bv": (f,),
        "time": (5, 5),
        "btime": (5,),
        "down": (f, d),
        "out": (d, 2),
    }


def diagonal_state_space(p, s, x):
    """A linear recurrence by associative scan, gated, after a short causal convolution."""
    x = x @ p["in"]
    u, gate = jnp.split(rms(x, p["g"]) @ p["up"], 2, -1)
    u = jax.lax.conv_general_dilated(
        u, p["conv"], (1,), [(2, 0)], dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=u.shape[-1],
    )  # fmt: skip
    u = silu(u)
    decay = jnp.exp(-jax.nn.softplus(u * p["dt"] + p["bdt"]) * jnp.exp(p["loga"]))

    def combine(a, b):
        return a[0] * b[0], a[1] * b[0] + b[1]

    _, y = jax.lax.associative_scan(combine, (decay, (1 - decay) * u), axis=1)
    return (x + (y * silu(gate)) @ p["down"]) @ p["out"]


def diagonal_shapes(d, f):
    return {
        "in": (3, d),
        "g": (d,),
        "up": (d, 2 * f),
        "conv": (3, 1, f),
        "dt": (f,),
        "bdt": (f,),
        "loga": (f,),
        "down": (f, d),
        "out": (d, 2),
    }


def mamba(p, s, x):
    """Selective state space: states of their own axis, B and C from the input."""
    x = x @ p["in"]
    u, z = jnp.split(x @ p["up"], 2, -1)
    n = s["n"]
    bc = u @ p["bc"]
    bm, cm = bc[..., :n], bc[..., n:]
    dt = jax.nn.softplus(u @ p["dt1"] @ p["dt2"] + p["bdt"])
    a = -jnp.exp(p["loga"])

    def step(h, t):
        ut, dtt, bt, ct = t
        h = h * jnp.exp(dtt[..., None] * a) + (dtt * ut)[..., None] * bt[:, None, :]
        return h, (h * ct[:, None, :]).sum(-1)

    h0 = jnp.zeros((x.shape[0], *p["loga"].shape), x.dtype)
    _, y = jax.lax.scan(step, h0, tuple(jnp.moveaxis(t, 1, 0) for t in (u, dt, bm, cm)))
    y = jnp.moveaxis(y, 0, 1) + u * p["skip"]
    return (y * silu(z)) @ p["down"] @ p["out"]


def mamba_shapes(d, f, n, r):
    return {
        "in": (3, d),
        "up": (d, 2 * f),
        "bc": (f, 2 * n),
        "dt1": (f, r),
        "dt2": (r, f),
        "bdt": (f,),
        "loga": (f, n),
        "skip": (f,),
        "down": (f, d),
        "out": (d, 2),
    }


def wavenet(p, s, x):
    x = x @ p["in"]
    skips = 0.0
    for i, dilation in enumerate((1, 2, 4)):
        y = jax.lax.conv_general_dilated(
            x, p[f"conv{i}"], (1,), [(dilation, 0)], rhs_dilation=(dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )  # fmt: skip
        a, b = y[..., : s["f"]], y[..., s["f"] :]
        y = jnp.tanh(a) * jax.nn.sigmoid(b)
        skips = skips + y @ p[f"skip{i}"]
        x = x + y @ p[f"res{i}"]
    return jax.nn.relu(skips) @ p["out"]


def wavenet_shapes(d, f, k):
    return {
        "in": (3, d),
        "out": (k, 2),
        **{f"conv{i}": (2, d, 2 * f) for i in range(3)},
        **{f"skip{i}": (f, k) for i in range(3)},
        **{f"res{i}": (f, d) for i in range(3)},
    }


def squeeze_excite(p, s, x):
    """EfficientNet's block: expand, depthwise, squeeze and excite, project."""
    x = x @ p["in"]
    y = silu(x @ p["expand"])
    y = jax.lax.conv_general_dilated(
        y, p["dw"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=y.shape[-1],
    )  # fmt: skip
    z = y.mean((1, 2), keepdims=True)
    z = jax.nn.sigmoid(silu(z @ p["squeeze"] + p["bs"]) @ p["excite"] + p["be"])
    return (x + (silu(y) * z) @ p["project"]).mean((1, 2)) @ p["out"]


def squeeze_shapes(d, e, r):
    return {
        "in": (3, d),
        "expand": (d, e),
        "dw": (3, 3, 1, e),
        "squeeze": (e, r),
        "bs": (r,),
        "excite": (r, e),
        "be": (e,),
        "project": (e, d),
        "out": (d, 2),
    }


def resnext(p, s, x):
    x = jax.nn.relu(x @ p["in"])
    y = jax.nn.relu(x @ p["a"])
    y = jax.lax.conv_general_dilated(
        y, p["grouped"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=s["groups"],
    )  # fmt: skip
    x = x + jax.nn.relu(y) @ p["b"]
    return x.max((1, 2)) @ p["out"]


def resnext_shapes(d, groups, each):
    e = groups * each
    return {"in": (3, d), "a": (d, e), "grouped": (3, 3, each, e), "b": (e, d), "out": (d, 2)}


def shuffle(p, s, x):
    """ShuffleNet: grouped 1×1 convolutions and a channel shuffle."""
    groups = 2

    def grouped(y, w):
        return jax.lax.conv_general_dilated(
            y, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )  # fmt: skip

    y = jax.nn.relu(grouped(x @ p["in"], p["a"]))
    shape = y.shape
    y = y.reshape(*shape[:-1], groups, shape[-1] // groups)
    y = jnp.swapaxes(y, -1, -2).reshape(shape)
    return grouped(y, p["b"]).mean((1, 2)) @ p["out"]


def shuffle_shapes(d, e, f):
    return {"in": (3, 2 * d), "a": (1, 1, d, 2 * e), "b": (1, 1, e, 2 * f), "out": (2 * f, 2)}


def weight_norm(p, s, x):
    """Weights as a direction and a length."""

    def w(name):
        v = p[f"v{name}"]
        return p[f"g{name}"] * v / jnp.sqrt(jnp.sum(v * v, 0, keepdims=True))

    x = jnp.tanh(x @ w("0"))
    x = jnp.tanh(x @ w("1"))
    return x @ p["out"]


def weight_norm_shapes(d, e):
    return {"v0": (7, d), "g0": (d,), "v1": (d, e), "g1": (e,), "out": (e, 2)}


def capsules(p, s, x):
    """Dynamic routing: a squash of vectors whose length is the norm over an axis."""
    u = x.reshape(x.shape[0], 5, 3) @ p["in"]
    votes = jnp.einsum("bic,icjd->bijd", u, p["vote"])
    logits = jnp.zeros(votes.shape[:-1], x.dtype)
    for _ in range(2):
        v = jnp.einsum("bij,bijd->bjd", softmax(logits), votes)
        n = jnp.sum(v * v, -1, keepdims=True)
        v = n / (1 + n) * v / jnp.sqrt(n + 1e-7)
        logits = logits + jnp.einsum("bijd,bjd->bij", votes, v)
    return jnp.einsum("bjd,jdk->bk", v, p["out"])


def capsule_shapes(c, d):
    return {"in": (3, c), "vote": (5, c, 4, d), "out": (4, d, 2)}


def low_rank(p, s, x):
    """LoRA on a frozen matrix, a mixture of soft experts, multiplicative interactions."""
    h = x @ p["w"] + (x @ p["a"]) @ p["b"] * (2.0 / s["r"])
    w = softmax(h @ p["route"], -1)
    slots = jnp.einsum("be,ehf,bh->bf", w, p["experts"], gelu(h))
    return (jnp.einsum("bf,fgk,bg->bk", slots, p["bilinear"], h)) @ p["out"]


def low_rank_shapes(h, r, f, k):
    return {
        "w": (7, h),
        "a": (7, r),
        "b": (r, h),
        "route": (h, 3),
        "experts": (3, h, f),
        "bilinear": (f, h, k),
        "out": (k, 2),
    }


def graph(p, s, x):
    """Message passing: gather by edges, segment sums, a GRU update."""
    senders, receivers = np.array([0, 1, 2, 3, 0, 4]), np.array([1, 2, 3, 4, 2, 0])
    h = x @ p["in"]
    for _ in range(2):
        m = jax.nn.relu(jnp.concatenate([h[senders], h[receivers]], -1) @ p["message"])
        m = jax.ops.segment_sum(m, receivers, 5)
        z = jax.nn.sigmoid(m @ p["z"] + h @ p["uz"])
        h = (1 - z) * h + z * jnp.tanh(m @ p["h"] + h @ p["uh"])
    return h.sum(0) @ p["out"]


def graph_shapes(d, m):
    return {
        "in": (7, d),
        "message": (2 * d, m),
        "z": (m, d),
        "uz": (d, d),
        "h": (m, d),
        "uh": (d, d),
        "out": (d, 2),
    }


def pixel_shuffle(p, s, x):
    y = gelu(x @ p["in"])
    b, n, m, c = y.shape
    y = (
        y.reshape(b, n, m, 2, 2, c // 4)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(b, 2 * n, 2 * m, c // 4)
    )
    return y @ p["out"]


def pixel_shapes(c):
    return {"in": (3, 4 * c), "out": (c, 2)}


def instance_norm(p, s, x):
    """StyleGAN-like: modulation of the weights themselves, then demodulation."""
    style = x.mean((1, 2)) @ p["style"] + 1
    x = x @ p["in"]
    w = p["w"][None] * style[:, :, None]
    w = w * jax.lax.rsqrt(jnp.sum(w * w, 1, keepdims=True) + 1e-8)
    x = jax.nn.leaky_relu(jnp.einsum("bhwi,bio->bhwo", x, w), 0.2)
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    return ((x - mean) / jnp.sqrt(var + 1e-5)).max((1, 2)) @ p["out"]


def instance_shapes(d, e):
    return {"style": (3, d), "in": (3, d), "w": (d, e), "out": (e, 2)}


def codebook(p, s, x):
    z = x @ p["in"]
    distance = (z * z).sum(-1, keepdims=True) - 2 * z @ p["codes"].T + (p["codes"] ** 2).sum(-1)
    chosen = p["codes"][jnp.argmin(distance, -1)]
    z = z + jax.lax.stop_gradient(chosen - z)
    return gelu(z @ p["up"]) @ p["out"]


def codebook_shapes(d, f, codes=6):
    return {"in": (7, d), "codes": (codes, d), "up": (d, f), "out": (f, 2)}


def sorting(p, s, x):
    return jnp.sort(x @ p["in"], -1) @ p["out"]


def running_sum(p, s, x):
    return jnp.cumsum(jnp.tanh(x @ p["in"]), -1) @ p["out"]


def winner(p, s, x):
    return jax.nn.one_hot(jnp.argmax(x @ p["in"], -1), s["d"], dtype=x.dtype) @ p["out"]


def log_softmax(p, s, x):
    return jax.nn.log_softmax(x @ p["in"]) @ p["out"]


def raw_sum(p, s, x):
    return jnp.tanh(jnp.tanh(x @ p["in"]).sum(-1, keepdims=True)) @ p["out"]


def two_shapes(d):
    return {"in": (7, d), "out": (d, 2)}


def one_shapes(d):
    return {"in": (7, d), "out": (1, 2)}


def alibi(p, s, x):
    x = x @ p["in"]
    q, k, v = (heads(x @ p[n], s["h"]) for n in "qkv")
    slopes = 2.0 ** (-8 * (np.arange(s["h"]) + 1) / s["h"])
    far = np.arange(5)[None] - np.arange(5)[:, None]
    bias = jnp.asarray(slopes[:, None, None] * far, x.dtype)
    w = softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(s["hd"]) + bias)
    return jnp.einsum("bhqk,bkhd->bqhd", w, v).reshape(*x.shape[:2], -1) @ p["o"]


def alibi_shapes(d, h, hd):
    return {"in": (3, d), **dict.fromkeys("qkv", (d, h * hd)), "o": (h * hd, 2)}


def sinusoidal(p, s, x):
    d = s["d"]
    angle = np.arange(5)[:, None] / 100 ** (2 * (np.arange(d)[None] // 2) / d)
    table = np.where(np.arange(d) % 2, np.cos(angle), np.sin(angle))
    x = x @ p["in"] + jnp.asarray(table, x.dtype)
    return layer_norm(x, p["g"], p["b"]) @ p["out"]


def sinusoidal_shapes(d):
    return {"in": (3, d), "g": (d,), "b": (d,), "out": (d, 2)}


# --- other front ends ----------------------------------------------------------------------------


def haiku_build(width, hidden):
    def forward(x):
        x = hk.Linear(width)(x)
        y = hk.LayerNorm(-1, True, True)(x)
        attend = hk.MultiHeadAttention(
            2, 3, w_init=hk.initializers.VarianceScaling(1.0), model_size=width
        )
        x = x + attend(y, y, y)
        y = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.nets.MLP([hidden, width], activation=jax.nn.gelu)(y)
        lstm = hk.LSTM(hidden)
        out, _ = hk.dynamic_unroll(lstm, x, lstm.initial_state(x.shape[0]), time_major=False)
        return hk.Linear(2)(out)

    model = hk.without_apply_rng(hk.transform(forward))
    with jax.numpy_dtype_promotion("standard"):
        shapes = jax.eval_shape(
            model.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 5, 3), jnp.float32)
        )

    def fn(params, x):
        with jax.numpy_dtype_promotion("standard"):
            return model.apply(params, x)

    return fn, shapes


class EqxBlock(eqx.Module):
    embed: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    out: eqx.nn.Linear

    def __init__(self, width, hidden):
        keys = jax.random.split(jax.random.key(0), 4)
        self.embed = eqx.nn.Linear(3, width, key=keys[0])
        self.norm = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(2, width, qk_size=4, vo_size=3, key=keys[1])
        self.mlp = eqx.nn.MLP(width, width, hidden, 2, key=keys[2])
        self.out = eqx.nn.Linear(width, 2, key=keys[3])

    def __call__(self, x):
        x = jax.vmap(self.embed)(x)
        y = jax.vmap(self.norm)(x)
        x = x + self.attention(y, y, y)
        return jax.vmap(self.out)(x + jax.vmap(self.mlp)(x))


class FlaxMany(nn.Module):
    """Flax's own layers: scale-free norms, weight norm, einsum, DenseGeneral, bidirectional RNN."""

    width: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.WeightNorm(nn.Dense(self.width))(x)
        y = nn.DenseGeneral((2, self.hidden))(x)
        y = nn.Einsum((2, self.hidden, self.width), "...hf,hfd->...d")(nn.swish(y))
        x = nn.GroupNorm(num_groups=None, group_size=2)(x + y)
        both = nn.Bidirectional(
            nn.RNN(nn.SimpleCell(self.hidden, dtype=x.dtype, param_dtype=x.dtype)),
            nn.RNN(nn.MGUCell(self.width, dtype=x.dtype, param_dtype=x.dtype)),
        )(x)
        x = x + nn.Dense(self.width)(both)
        return nn.Dense(2)(nn.PReLU()(x).mean(1))


BLOCK = {"d": 6, "h": 2, "hd": 4}
add = functools.partial(registry.add, "unforeseen")
# fmt: off
add("attention", "dot_product_attention", functions(dot_product_attention, dot_product_shapes),
    {"d": 6, "h": 4, "kv": 2, "hd": 3}, {"d": {"d": 12}, "odd d": {"d": 9}, "heads": {"h": 8,
    "kv": 4}, "queries": {"h": 8}, "size": {"hd": 6}, "odd size": {"hd": 5}, "all": {"d": 12,
    "h": 8, "kv": 4, "hd": 6}}, SEQUENCE)
add("attention", "parallel", functions(parallel_block, parallel_shapes), {"d": 6, "h": 3, "hd": 4,
    "f": 5}, {"d": {"d": 12}, "odd d": {"d": 8}, "h": {"h": 6}, "f": {"f": 7}, "all": {"d": 12,
    "h": 6, "f": 10}}, SEQUENCE)
add("attention", "t5", functions(t5, t5_shapes), {"d": 6, "h": 2, "hd": 4, "f": 5},
    {"d": {"d": 12}, "odd d": {"d": 8}, "h": {"h": 4}, "hd": {"hd": 7}, "f": {"f": 8},
    "all": {"d": 12, "h": 4, "hd": 8, "f": 10}}, TOKENS)
add("attention", "perceiver", functions(perceiver, perceiver_shapes), {"d": 6, "h": 2, "hd": 3,
    "c": 5}, {"d": {"d": 12}, "h": {"h": 4}, "hd": {"hd": 6}, "c": {"c": 7}, "all": {"d": 12,
    "h": 4, "hd": 6, "c": 10}}, SEQUENCE)
add("attention", "linear attention", functions(linear_attention, linear_attention_shapes),
    {"d": 6, "h": 2, "hd": 3}, {"d": {"d": 12}, "h": {"h": 4}, "hd": {"hd": 6}, "all": {"d": 12,
    "h": 4, "hd": 6}}, SEQUENCE)
add("attention", "swin", functions(swin, swin_shapes), {"d": 6, "h": 2, "hd": 3, "e": 5},
    {"d": {"d": 12}, "h": {"h": 4}, "hd": {"hd": 6}, "e": {"e": 8}, "all": {"d": 12, "h": 4,
    "hd": 6, "e": 8}}, (draw(7, 2, 4, 4, 3),))
add("perceptron", "adaptive norm", functions(adaptive_norm, adaptive_shapes), {"d": 4, "f": 5,
    "c": 6}, {"d": {"d": 8}, "f": {"f": 8}, "c": {"c": 9}, "all": {"d": 8, "f": 10, "c": 12}},
    SEQUENCE)
add("perceptron", "gmlp", functions(gmlp, gmlp_shapes), {"d": 4, "f": 6}, {"d": {"d": 8},
    "odd d": {"d": 7}, "f": {"f": 12}, "all": {"d": 8, "f": 12}}, SEQUENCE, guessed=("odd d",))
add("recurrent", "diagonal state space", functions(diagonal_state_space, diagonal_shapes),
    {"d": 4, "f": 6}, {"d": {"d": 8}, "f": {"f": 9}, "all": {"d": 8, "f": 12}}, SEQUENCE)
add("recurrent", "mamba", functions(mamba, mamba_shapes), {"d": 4, "f": 6, "n": 3, "r": 2},
    {"d": {"d": 7}, "f": {"f": 9}, "n": {"n": 6}, "r": {"r": 4}, "all": {"d": 8, "f": 12, "n": 6,
    "r": 4}}, SEQUENCE)
add("convolution", "wavenet", functions(wavenet, wavenet_shapes), {"d": 4, "f": 5, "k": 6},
    {"d": {"d": 7}, "f": {"f": 8}, "k": {"k": 9}, "all": {"d": 8, "f": 10, "k": 12}}, SEQUENCE)
add("convolution", "squeeze-excite", functions(squeeze_excite, squeeze_shapes), {"d": 4, "e": 6,
    "r": 3}, {"d": {"d": 7}, "e": {"e": 9}, "r": {"r": 5}, "all": {"d": 8, "e": 12, "r": 6}},
    IMAGE)
add("convolution", "resnext", functions(resnext, resnext_shapes), {"d": 5, "groups": 2,
    "each": 3}, {"d": {"d": 10}, "groups": {"groups": 4}, "each": {"each": 6}, "all": {"d": 10,
    "groups": 4, "each": 6}}, IMAGE)
add("convolution", "shuffle", functions(shuffle, shuffle_shapes), {"d": 3, "e": 4, "f": 5},
    {"d": {"d": 5}, "e": {"e": 8}, "f": {"f": 7}, "all": {"d": 6, "e": 8, "f": 10}}, IMAGE)
add("perceptron", "weight norm", functions(weight_norm, weight_norm_shapes), {"d": 4, "e": 5},
    {"d": {"d": 8}, "e": {"e": 8}, "all": {"d": 8, "e": 10}}, FLAT)
add("perceptron", "capsules", functions(capsules, capsule_shapes), {"c": 4, "d": 6},
    {"c": {"c": 7}, "d": {"d": 12}, "all": {"c": 8, "d": 12}}, (draw(8, 2, 15),))
add("perceptron", "low rank", functions(low_rank, low_rank_shapes), {"h": 4, "r": 3, "f": 5,
    "k": 6}, {"h": {"h": 8}, "r": {"r": 5}, "f": {"f": 8}, "k": {"k": 7}, "all": {"h": 8, "r": 6,
    "f": 10, "k": 12}}, FLAT)
add("relation", "graph", functions(graph, graph_shapes), {"d": 4, "m": 6}, {"d": {"d": 7},
    "m": {"m": 9}, "all": {"d": 8, "m": 12}}, FLAT)
add("convolution", "pixel shuffle", functions(pixel_shuffle, pixel_shapes), {"c": 3},
    {"c": {"c": 5}}, IMAGE)
add("convolution", "instance norm", functions(instance_norm, instance_shapes), {"d": 4, "e": 5},
    {"d": {"d": 8}, "e": {"e": 8}, "all": {"d": 8, "e": 10}}, IMAGE)
add("perceptron", "codebook", functions(codebook, codebook_shapes), {"d": 4, "f": 5},
    {"f": {"f": 8}, "d": {"d": 8}}, FLAT)
add("attention", "haiku", haiku_build, {"width": 4, "hidden": 5}, {"width": {"width": 8},
    "hidden": {"hidden": 10}}, SEQUENCE, front_end="haiku")
add("attention", "equinox attention", equinox_build(EqxBlock), {"width": 6, "hidden": 5},
    {"width": {"width": 12}, "hidden": {"hidden": 8}}, SEQUENCE, front_end="equinox")
add("perceptron", "flax layers", linen(FlaxMany, SEQUENCE), {"width": 4, "hidden": 5},
    {"width": {"width": 8}, "hidden": {"hidden": 10}}, SEQUENCE, front_end="linen")
add("attention", "alibi", functions(alibi, alibi_shapes), BLOCK, {"hd": {"hd": 8}, "d": {"d": 9}},
    SEQUENCE)
add("attention", "alibi heads", functions(alibi, alibi_shapes), BLOCK, {"h": {"h": 4},
    "three times": {"h": 6}, "not a multiple": {"h": 3}}, SEQUENCE,
    refused={"not a multiple": "head_dim"})
add("attention", "rotary size", functions(parallel_block, parallel_shapes), {"d": 6, "h": 3,
    "hd": 4, "f": 5}, {"hd": {"hd": 6}}, SEQUENCE, refused={"hd": "heads instead of head_dim"})
add("attention", "sinusoidal stream", functions(sinusoidal, sinusoidal_shapes), {"d": 4},
    {"d": {"d": 8}}, SEQUENCE, refused={"d": "constant"})
add("operation", "sort", functions(sorting, two_shapes), {"d": 4}, {"d": {"d": 8}}, FLAT,
    refused={"d": "sort"})
add("operation", "cumsum", functions(running_sum, two_shapes), {"d": 4}, {"d": {"d": 8}}, FLAT,
    refused={"d": "cumsum"})
add("operation", "argmax", functions(winner, two_shapes), {"d": 4}, {"d": {"d": 8}}, FLAT,
    refused={"d": "argmax"})
add("operation", "log-softmax", functions(log_softmax, two_shapes), {"d": 4}, {"d": {"d": 8}},
    FLAT, refused={"d": "log"})
add("operation", "sum of tanh", functions(raw_sum, one_shapes), {"d": 4}, {"d": {"d": 8}},
    FLAT)
add("perceptron", "more codes", functions(codebook, codebook_shapes), {"d": 4, "f": 5,
    "codes": 6}, {"codes": {"codes": 12}}, FLAT, refused={"codes": "argmin"})
# fmt: on
