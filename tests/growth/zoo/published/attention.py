"""Attention of all kinds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo.building import TOKENS, heads, layer_norm, rms
from tests.growth.zoo.published.making import (
    attend,
    gelu,
    model,
    sigmoid,
    silu,
    softmax,
    softplus,
)


@model(
    "attention", "latent attention",
    lambda d, h, c, e, v: {
        "in": (3, d), "dq": (d, c), "gq": (c,), "uq": (c, h * (e + 4)), "dkv": (d, c + 4),
        "gkv": (c,), "ukv": (c, h * (e + v)), "o": (h * v, d), "g": (d,), "out": (d, 2),
    },
    {"d": 4, "h": 2, "c": 3, "e": 4, "v": 5}, "d h c e v",
)  # fmt: skip
def _(p, s, x):
    """DeepSeek: queries, keys and values out of small latents; one rotary key for all heads."""
    h, e = s["h"], s["e"]
    x = x @ p["in"]
    b, n, _ = x.shape
    y = rms(x, p["g"])
    q = (rms(y @ p["dq"], p["gq"]) @ p["uq"]).reshape(b, n, h, e + 4)
    latent, rope = jnp.split(y @ p["dkv"], [s["c"]], -1)
    kv = (rms(latent, p["gkv"]) @ p["ukv"]).reshape(b, n, h, e + s["v"])
    angle = np.arange(n)[:, None] * 100.0 ** (-np.arange(2) / 2)

    def turn(t):
        a, c = t[..., 0::2], t[..., 1::2]
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        return jnp.stack([a * cos - c * sin, a * sin + c * cos], -1).reshape(t.shape)

    q = jnp.concatenate([q[..., :e], turn(q[..., e:])], -1)
    k = jnp.concatenate([kv[..., :e], jnp.broadcast_to(turn(rope[:, :, None]), (b, n, h, 4))], -1)
    return (x + attend(q, k, kv[..., e:]).reshape(b, n, -1) @ p["o"]) @ p["out"]


@model(
    "attention", "transformer-xl",
    lambda d, h, e: {
        "in": (3, d), **dict.fromkeys("qkv", (d, h, e)), "r": (6, h, e), "u": (h, e),
        "w": (h, e), "o": (h, e, d), "g": (d,), "b": (d,), "out": (d, 2),
    },
    {"d": 4, "h": 2, "e": 3}, "d h e",
)  # fmt: skip
def _(p, s, x):
    """Relative positions with two biases and the shift trick, a memory without gradients."""
    x = x @ p["in"]
    memory, x = jax.lax.stop_gradient(x[:, :2]), x[:, 2:]
    context = jnp.concatenate([memory, x], 1)
    q = jnp.einsum("btd,dhe->bthe", x, p["q"])
    k, v = (jnp.einsum("btd,dhe->bthe", context, p[n]) for n in "kv")
    table = jnp.asarray(np.sin(np.outer(np.arange(5)[::-1], 10.0 ** -np.arange(3))))
    r = jnp.einsum("tc,che->the", jnp.concatenate([table, jnp.cos(table)], -1), p["r"])
    ac = jnp.einsum("bqhe,bkhe->bhqk", q + p["u"], k)
    bd = jnp.einsum("bqhe,khe->bhqk", q + p["w"], r)
    b, h, i, j = bd.shape
    bd = jnp.pad(bd, ((0, 0), (0, 0), (0, 0), (1, 0))).reshape(b, h, j + 1, i)[:, :, 1:]
    scores = (ac + bd.reshape(b, h, i, j)) * s["e"] ** -0.5
    mask = np.arange(j)[None] > np.arange(i)[:, None] + 2
    w = softmax(jnp.where(mask, -1e30, scores))
    y = jnp.einsum("bhqk,bkhe,hed->bqd", w, v, p["o"])
    return layer_norm(x + y, p["g"], p["b"]) @ p["out"]


@model(
    "attention", "sandwich",
    lambda d, h, e, f: {
        "in": (3, d), **dict.fromkeys(("g1", "g2", "g3", "g4", "gl"), (d,)),
        **dict.fromkeys("qkv", (d, h * e)), "gq": (e,), "gk": (e,), "o": (h * e, d),
        "up": (d, f), "gate": (d, f), "down": (f, d), "out": (d, 3),
    },
    {"d": 4, "h": 2, "e": 3, "f": 5}, "d h e f",
)  # fmt: skip
def _(p, s, x):
    """Gemma: norms before and after each branch, QK norm, sliding window, soft caps."""
    x = x @ p["in"] * jnp.sqrt(float(s["d"]))
    y = rms(x, 1 + p["g1"])
    q, k, v = (heads(y @ p[n], s["h"]) for n in "qkv")
    q, k = rms(q, 1 + p["gq"]), rms(k, 1 + p["gk"])
    scores = jnp.einsum("bqhd,bkhd->bhqk", q * s["e"] ** -0.5, k)
    i = jnp.arange(5)
    mask = (i[:, None] >= i) & (i[:, None] < i + 3)
    scores = jnp.where(mask, 50.0 * jnp.tanh(scores / 50.0), jnp.finfo(jnp.float32).min)
    y = jnp.einsum("bhqk,bkhd->bqhd", softmax(scores), v).reshape(*x.shape[:2], -1) @ p["o"]
    x = x + rms(y, 1 + p["g2"])
    y = rms(x, 1 + p["g3"])
    x = x + rms((gelu(y @ p["gate"]) * (y @ p["up"])) @ p["down"], 1 + p["g4"])
    return jnp.tanh(rms(x, 1 + p["gl"]) @ p["out"] / 30.0) * 30.0


@model(
    "attention", "ngpt",
    lambda d, h, e, f: {
        "emb": (11, d), **dict.fromkeys("qkv", (d, h * e)), "sqk": (h, e), "o": (h * e, d),
        "up": (d, 2 * f), "su": (2 * f,), "down": (f, d), "lr": (2, d), "sz": (11,),
    },
    {"d": 4, "h": 2, "e": 3, "f": 5}, "d h e f",
    refused=("h x1.5", "e x1.5", "all x1.5"),
    inputs=TOKENS,
)  # fmt: skip
def _(p, s, tokens):
    """nGPT: everything on the unit sphere, weights too; learned step sizes."""
    unit = lambda t, axis=-1: t / jnp.linalg.norm(t, axis=axis, keepdims=True)
    x = unit(p["emb"])[tokens]
    q, k, v = (heads(x @ unit(p[n], 0), s["h"]) for n in "qkv")
    q, k = unit(q) * p["sqk"], unit(k) * p["sqk"]
    w = softmax(jnp.sqrt(float(s["e"])) * jnp.einsum("bqhd,bkhd->bhqk", q, k))
    y = jnp.einsum("bhqk,bkhd->bqhd", w, v).reshape(*x.shape[:2], -1) @ unit(p["o"])
    x = unit(x + jnp.abs(p["lr"][0]) * (unit(y) - x))
    u, g = jnp.split(x @ unit(p["up"], 0) * p["su"] * np.sqrt(s["d"]), 2, -1)
    y = (u * silu(g)) @ unit(p["down"])
    x = unit(x + jnp.abs(p["lr"][1]) * (unit(y) - x))
    return x @ unit(p["emb"]).T * p["sz"]


@model(
    "attention", "hyper-connections",
    lambda d, n, f: {
        "in": (3, d), "a": (2, n), "mix": (2, n, n), "b": (2, n), "g": (2, d), "wd": (2, d, n),
        "s": (2,),
        "up": (2, d, f), "down": (2, f, d), "out": (d, 2),
    },
    {"d": 4, "n": 3, "f": 5}, "d f n",
    refused=("n x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """Several residual streams, mixed by learned and by dynamic weights."""
    h = jnp.repeat((x @ p["in"])[..., None, :], s["n"], -2)
    for i in range(2):
        dynamic = jnp.tanh(rms(h, p["g"][i]) @ p["wd"][i]) * p["s"][i]
        y = jnp.einsum("btnd,n->btd", h, p["a"][i])
        y = gelu(y @ p["up"][i]) @ p["down"][i]
        h = jnp.einsum("btnd,btnm->btmd", h, p["mix"][i] + dynamic)
        h = h + p["b"][i][:, None] * y[..., None, :]
    return h.sum(-2) @ p["out"]


@model(
    "attention", "value residual",
    lambda d, h, e: {
        "in": (3, d), "g": (2, d), "qkv": (2, d, 3, h * e), "o": (2, h * e, d), "lam": (2, 2),
        "out": (d, 2),
    },
    {"d": 4, "h": 2, "e": 3}, "d h e",
)  # fmt: skip
def _(p, s, x):
    x = x @ p["in"]
    first = None
    for i in range(2):
        q, k, v = jnp.einsum("btd,dce->cbte", rms(x, p["g"][i]), p["qkv"][i])
        first = v if first is None else first
        v = p["lam"][i, 0] * v + p["lam"][i, 1] * first
        o = attend(*(heads(t, s["h"]) for t in (q, k, v)))
        x = x + o.reshape(*x.shape[:2], -1) @ p["o"][i]
    return x @ p["out"]


@model(
    "attention", "linformer",
    lambda d, h, e: {
        "in": (3, d), **dict.fromkeys("qkv", (d, h, e)), "pk": (5, 2), "pv": (5, 2),
        "o": (h, e, d), "out": (d, 2),
    },
    {"d": 4, "h": 2, "e": 3}, "d h e",
)  # fmt: skip
def _(p, s, x):
    x = x @ p["in"]
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[n]) for n in "qkv")
    k, v = jnp.einsum("bthe,tk->bkhe", k, p["pk"]), jnp.einsum("bthe,tk->bkhe", v, p["pv"])
    return (x + jnp.einsum("bthe,hed->btd", attend(q, k, v), p["o"])) @ p["out"]


@model(
    "attention", "performer",
    lambda d, h, m: {
        "in": (3, d), **dict.fromkeys("qkv", (d, h, 4)), "features": (4, m), "o": (h, 4, d),
        "out": (d, 2),
    },
    {"d": 4, "h": 2, "m": 6}, "d h m",
    refused=("m x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """Positive random features, kept as a buffer; causal by prefix sums."""
    x = x @ p["in"]
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[n]) for n in "qkv")

    def phi(t, query):
        t = t * 4**-0.25
        dash = t @ jax.lax.stop_gradient(p["features"])
        top = dash.max(-1, keepdims=True) if query else dash.max((-3, -2, -1), keepdims=True)
        return (jnp.exp(dash - (t**2).sum(-1, keepdims=True) / 2 - top) + 1e-4) / np.sqrt(s["m"])

    q, k = phi(q, True), phi(k, False)
    kv = jnp.cumsum(jnp.einsum("bthm,bthe->bthme", k, v), 1)
    y = jnp.einsum("bthm,bthme->bthe", q, kv)
    y = y / jnp.einsum("bthm,bthm->bth", q, jnp.cumsum(k, 1))[..., None]
    return (x + jnp.einsum("bthe,hed->btd", y, p["o"])) @ p["out"]


@model(
    "attention", "banded attention",
    lambda d, h, e: {"in": (3, d), "qkv": (d, 3 * h * e), "global": (d, h * e),
                     "o": (h * e, d), "out": (d, 2)},
    {"d": 4, "h": 2, "e": 3}, "d h e",
)  # fmt: skip
def _(p, s, x):
    """Longformer: blocks of two that see their neighbours, by pads and slices, and one global."""
    x = jnp.pad(x @ p["in"], ((0, 0), (0, 1), (0, 0)))
    b, n, _ = x.shape
    q, k, v = (heads(t, s["h"]) for t in jnp.split(x @ p["qkv"], 3, -1))
    blocks = lambda t: t.reshape(b, n // 2, 2, *t.shape[2:])
    near = lambda t: jnp.concatenate(
        [jnp.pad(blocks(t), ((0, 0), (1, 1), *((0, 0),) * 3))[:, i : i + n // 2] for i in range(3)],
        2,
    )
    scores = jnp.einsum("bcqhe,bckhe->bchqk", blocks(q), near(k)) / np.sqrt(s["e"])
    place = np.arange(-2, n + 2).reshape(-1, 2)
    keys = np.concatenate([place[i : i + n // 2] for i in range(3)], 1)
    bad = (keys < 0) | (keys >= n)
    scores = jnp.where(bad[None, :, None, None], -1e9, scores)
    y = jnp.einsum("bchqk,bckhe->bcqhe", softmax(scores), near(v)).reshape(b, n, s["h"], -1)
    g = attend(heads(x[:, :1] @ p["global"], s["h"]), k, v)
    y = y.at[:, :1].set(g).reshape(b, n, -1)
    return (x + y @ p["o"]) @ p["out"]


@model(
    "attention", "hashed attention",
    lambda d, e: {"in": (3, d), "qk": (d, e), "v": (d, e), "rot": (e, 2), "out": (e, 2)},
    {"d": 4, "e": 3}, "d e",
    refused=("e x2", "all x2", "e x3", "all x3", "e x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """Reformer: buckets by the largest projection, sorted, attended in chunks, put back."""
    x = x @ p["in"]
    qk, v = x @ p["qk"], x @ p["v"]
    turned = jax.lax.stop_gradient(qk) @ p["rot"]
    bucket = jnp.argmax(jnp.concatenate([turned, -turned], -1), -1)
    order = jnp.argsort(bucket * 5 + jnp.arange(5), -1)
    take = lambda t, i: jnp.take_along_axis(t, i[..., None], 1)
    q, v = take(qk, order), take(v, order)
    k = q / (jnp.linalg.norm(q, axis=-1, keepdims=True) + 1e-6)
    w = softmax(jnp.einsum("bqe,bke->bqk", q, k) / np.sqrt(s["e"]))
    return take(w @ v, jnp.argsort(order, -1)) @ p["out"]


@model(
    "attention", "pointer net",
    lambda d, e: {
        "in": (3, d), "w1": (d, e), "w2": (d, e), "v": (e,), "cell": (2 * d, 4 * d), "start": (d,),
    },
    {"d": 4, "e": 3}, "d e",
)  # fmt: skip
def _(p, s, x):
    """Additive attention that points at its inputs and feeds on what it points at."""
    m = jnp.tanh(x @ p["in"])
    b = x.shape[0]

    def step(carry, _):
        h, c, y = carry
        i, f, g, o = jnp.split(jnp.concatenate([y, h], -1) @ p["cell"], 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        score = jnp.tanh(m @ p["w1"] + (h @ p["w2"])[:, None]) @ p["v"]
        pick = jax.nn.one_hot(jnp.argmax(score, -1), m.shape[1])
        return (h, c, jnp.einsum("bt,btd->bd", pick, m)), jax.nn.log_softmax(score)

    zero = jnp.zeros((b, s["d"]))
    carry = zero, zero, jnp.broadcast_to(p["start"], (b, s["d"]))
    return jax.lax.scan(step, carry, None, length=3)[1]


@model(
    "attention", "turing machine",
    lambda d, m, n: {
        "c": (3 + m, d), "bc": (d,), "k": (d, m), "beta": (d, 1), "g": (d, 1), "shift": (d, 3),
        "gamma": (d, 1), "erase": (d, m), "add": (d, m), "out": (d + m, 2),
    },
    {"d": 4, "m": 3, "n": 6}, "d m",
    refused=("m x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """NTM: addressing by cosine similarity, interpolation, circular shift, sharpening."""

    def step(carry, t):
        memory, w, read = carry
        h = jnp.tanh(jnp.concatenate([t, read], -1) @ p["c"] + p["bc"])
        k = h @ p["k"]
        dot = jnp.einsum("bnm,bm->bn", memory, k)
        size = jnp.linalg.norm(memory, axis=-1) * jnp.linalg.norm(k, axis=-1, keepdims=True)
        wc = softmax(softplus(h @ p["beta"]) * dot / (size + 1e-8))
        g = sigmoid(h @ p["g"])
        w = g * wc + (1 - g) * w
        sh = softmax(h @ p["shift"])
        w = sum(sh[:, i : i + 1] * jnp.roll(w, i - 1, -1) for i in range(3))
        w = w ** (1 + softplus(h @ p["gamma"]))
        w = w / (w.sum(-1, keepdims=True) + 1e-8)
        erase, add = sigmoid(h @ p["erase"]), jnp.tanh(h @ p["add"])
        memory = memory * (1 - w[..., None] * erase[:, None]) + w[..., None] * add[:, None]
        read = jnp.einsum("bn,bnm->bm", w, memory)
        return (memory, w, read), jnp.concatenate([h, read], -1) @ p["out"]

    b = x.shape[0]
    memory = jnp.full((b, s["n"], s["m"]), 1e-2)
    init = memory, jnp.full((b, s["n"]), 1 / s["n"]), jnp.zeros((b, s["m"]))
    return jax.lax.scan(step, init, jnp.swapaxes(x, 0, 1))[1]
