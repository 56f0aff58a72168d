"""Recurrences, state spaces and long convolutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo.building import heads, layer_norm, rms
from tests.growth.zoo.published.making import (
    gelu,
    model,
    relu,
    sigmoid,
    silu,
    softplus,
)


@model(
    "recurrent", "s5",
    lambda d, n: {
        "in": (3, d), "lr": (n,), "li": (n,), "br": (n, d), "bi": (n, d), "cr": (d, n),
        "ci": (d, n), "skip": (d,), "step": (n,), "g": (d,), "b": (d,), "gate": (d, d),
        "out": (d, 2),
    },
    {"d": 4, "n": 3}, "d n",
    refused=("d x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """Complex diagonal states, discretised by zero-order hold, run by an associative scan."""
    u = x @ p["in"]
    y = layer_norm(u, p["g"], p["b"])
    lam = -jnp.exp(p["lr"]) + 1j * p["li"]
    b = p["br"] + 1j * p["bi"]
    step = jnp.exp(p["step"])
    bar = jnp.exp(lam * step)
    bbar = ((bar - 1) / lam)[:, None] * b

    def one(v):
        bu = v.astype(bbar.dtype) @ bbar.T
        elements = jnp.broadcast_to(bar, bu.shape), bu
        _, h = jax.lax.associative_scan(lambda i, j: (j[0] * i[0], j[0] * i[1] + j[1]), elements)
        return 2 * (h @ (p["cr"] + 1j * p["ci"]).T).real + p["skip"] * v

    y = gelu(jax.vmap(one)(y))
    return (u + y * sigmoid(y @ p["gate"])) @ p["out"]


@model(
    "recurrent", "lru",
    lambda d, n: {
        "in": (3, d), "nu": (n,), "theta": (n,), "gamma": (n,), "b": (2, n, d), "c": (2, d, n),
        "dd": (d,), "out": (d, 2),
    },
    {"d": 4, "n": 3}, "d n",
)  # fmt: skip
def _(p, s, x):
    lam = jnp.exp(jax.lax.complex(-jnp.exp(p["nu"]), jnp.exp(p["theta"])))
    b = jax.lax.complex(p["b"][0], p["b"][1]) * jnp.exp(p["gamma"])[:, None]
    c = jax.lax.complex(p["c"][0], p["c"][1])
    u = x @ p["in"]

    def run(us):
        bu = jax.vmap(lambda v: b @ v.astype(b.dtype))(us)
        h = jnp.zeros(lam.shape, b.dtype)
        _, hs = jax.lax.scan(lambda h, z: (lam * h + z,) * 2, h, bu)
        return jax.vmap(lambda h, v: (c @ h).real + p["dd"] * v)(hs, us)

    return gelu(jax.vmap(run)(u)) @ p["out"]


@model(
    "recurrent", "rwkv",
    lambda d, f: {
        "in": (3, d), "g": (d,), "b": (d,), "g2": (d,), "b2": (d,), "mix": (3, d), "mix2": (2, d),
        "k": (d, d), "v": (d, d), "r": (d, d), "o": (d, d), "decay": (d,), "first": (d,),
        "fk": (d, f), "fv": (f, d), "fr": (d, d), "out": (d, 2),
    },
    {"d": 4, "f": 5}, "d f",
)  # fmt: skip
def _(p, s, x):
    """Time mixing by token shift, the stabilised WKV recurrence, squared-ReLU channel mixing."""
    x = x @ p["in"]
    y = layer_norm(x, p["g"], p["b"])
    last = jnp.pad(y, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    k, v, r = (
        (y * m + last * (1 - m)) @ p[n] for n, m in zip("kvr", sigmoid(p["mix"]), strict=True)
    )
    w, first = -jnp.exp(p["decay"]), p["first"]

    def step(carry, kv):
        a, b, top = carry
        k, v = kv
        q = jnp.maximum(top, first + k)
        e1, e2 = jnp.exp(top - q), jnp.exp(first + k - q)
        out = (e1 * a + e2 * v) / (e1 * b + e2)
        q = jnp.maximum(top + w, k)
        e1, e2 = jnp.exp(top + w - q), jnp.exp(k - q)
        return (e1 * a + e2 * v, e1 * b + e2, q), out

    zero = jnp.zeros((x.shape[0], s["d"]))
    _, wkv = jax.lax.scan(
        step, (zero, zero, zero - 1e38), tuple(jnp.swapaxes(t, 0, 1) for t in (k, v))
    )
    x = x + (sigmoid(r) * jnp.swapaxes(wkv, 0, 1)) @ p["o"]
    y = layer_norm(x, p["g2"], p["b2"])
    last = jnp.pad(y, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    m, n = sigmoid(p["mix2"])
    k = jnp.square(relu((y * m + last * (1 - m)) @ p["fk"]))
    return (x + sigmoid((y * n + last * (1 - n)) @ p["fr"]) * (k @ p["fv"])) @ p["out"]


@model(
    "recurrent", "hyena",
    lambda d, f: {
        "in": (3, d), "proj": (d, 3 * d), "short": (3, 3 * d), "f1": (5, f), "b1": (f,),
        "freq": (f,), "f2": (f, 2 * d), "decay": (d,), "skip": (2, d), "o": (d, d), "out": (d, 2),
    },
    {"d": 4, "f": 6}, "d f",
)  # fmt: skip
def _(p, s, x):
    """Implicit long filters from an MLP with sines over positions, applied by FFT, and gates."""
    n, d = x.shape[1], s["d"]
    t = jnp.linspace(0, 1, n)[:, None]
    z = jnp.concatenate([t, jnp.sin(2 * np.pi * t * jnp.arange(1, 5))], -1)
    h = jnp.sin(p["freq"] * (z @ p["f1"] + p["b1"])) @ p["f2"]
    h = h.reshape(n, 2, d) * jnp.exp(-t[:, :, None] * jnp.abs(p["decay"]))
    u = x @ p["in"] @ p["proj"]
    u = sum(jnp.pad(u, ((0, 0), (i, 0), (0, 0)))[:, :n] * p["short"][i] for i in range(3))
    *gates, v = jnp.split(u, 3, -1)
    for i, g in enumerate(gates):
        y = jnp.fft.irfft(
            jnp.fft.rfft(v, n=2 * n, axis=1) * jnp.fft.rfft(h[:, i], n=2 * n, axis=0),
            n=2 * n, axis=1,
        )[:, :n]  # fmt: skip
        v = g * (y + v * p["skip"][i])
    return v @ p["o"] @ p["out"]


@model(
    "recurrent", "gated linear attention",
    lambda d, h, hk, hv, r: {
        "in": (3, d), "q": (d, h * hk), "k": (d, h * hk), "v": (d, h * hv), "a1": (d, r),
        "a2": (r, h * hk), "gn": (hv,), "gate": (d, h * hv), "o": (h * hv, d), "out": (d, 2),
    },
    {"d": 4, "h": 2, "hk": 3, "hv": 4, "r": 2}, "d h hk hv r",
)  # fmt: skip
def _(p, s, x):
    """GLA: matrix states with a data-dependent decay of the keys, head-wise norm, swish gate."""
    h = s["h"]
    x = x @ p["in"]
    q, k, v = (heads(x @ p[n], h) for n in "qkv")
    a = heads(sigmoid(x @ p["a1"] @ p["a2"]) ** (1 / 16), h)

    def step(state, t):
        q, k, v, a = t
        state = state * a[..., None] + jnp.einsum("bhk,bhv->bhkv", k, v)
        return state, jnp.einsum("bhk,bhkv->bhv", q / np.sqrt(s["hk"]), state)

    init = jnp.zeros((x.shape[0], h, s["hk"], s["hv"]))
    _, y = jax.lax.scan(step, init, jax.tree.map(lambda t: jnp.moveaxis(t, 1, 0), (q, k, v, a)))
    y = rms(jnp.moveaxis(y, 0, 1), p["gn"])
    y = y.reshape(*x.shape[:2], -1) * silu(x @ p["gate"])
    return (x + y @ p["o"]) @ p["out"]


@model(
    "recurrent", "griffin",
    lambda d, r, b: {
        "in": (3, d), "g": (d,), "x": (d, b * r), "y": (d, b * r), "conv": (4, b * r),
        "cb": (b * r,), "a": (b * r,), "wa": (b, r, r), "ba": (b, r), "wx": (b, r, r),
        "bx": (b, r), "o": (b * r, d), "out": (d, 2),
    },
    {"d": 4, "r": 3, "b": 2}, "d r b",
)  # fmt: skip
def _(p, s, x):
    """RG-LRU with block-diagonal gates."""
    x = x @ p["in"]
    y = rms(x, 1 + p["g"])
    left, right = gelu(y @ p["y"]), y @ p["x"]
    n = x.shape[1]
    right = p["cb"] + sum(
        jnp.pad(right, ((0, 0), (i, 0), (0, 0)))[:, :n] * p["conv"][3 - i] for i in range(4)
    )
    split = right.reshape(*right.shape[:2], s["b"], s["r"])
    gate = lambda w, b: sigmoid(jnp.einsum("...hi,hij->...hj", split, p[w]) + p[b])
    ga, gx = (t.reshape(right.shape) for t in (gate("wa", "ba"), gate("wx", "bx")))
    log_a = -8.0 * ga * softplus(p["a"])
    a, mult = jnp.exp(log_a), jnp.sqrt(1 - jnp.exp(2 * log_a))
    z = right * gx * mult

    def step(h, t):
        h = t[0] * h + t[1]
        return h, h

    _, h = jax.lax.scan(
        step, jnp.zeros_like(z[:, 0]), (jnp.swapaxes(a, 0, 1), jnp.swapaxes(z, 0, 1))
    )
    return (x + (jnp.swapaxes(h, 0, 1) * left) @ p["o"]) @ p["out"]


@model(
    "recurrent", "slstm",
    lambda h, e: {
        "w": (3, 4 * h * e), "r": (4, h, e, e), "b": (4, h * e), "gn": (h * e,), "out": (h * e, 2),
    },
    {"h": 2, "e": 3}, "h e",
    refused=("e x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """xLSTM's scalar memory: exponential gates kept in range by a running maximum."""
    h, e = s["h"], s["e"]
    wx = (x @ p["w"]).reshape(*x.shape[:2], 4, h * e)

    def step(carry, t):
        c, n, hid, m = carry
        rec = jnp.einsum("bhi,ghij->bghj", hid.reshape(-1, h, e), p["r"])
        z, i, f, o = jnp.moveaxis(t + rec.reshape(t.shape) + p["b"], 1, 0)
        log_f = jax.nn.log_sigmoid(f)
        new = jnp.maximum(log_f + m, i)
        i, f = jnp.exp(i - new), jnp.exp(log_f + m - new)
        c, n = f * c + i * jnp.tanh(z), f * n + i
        hid = sigmoid(o) * c / n
        return (c, n, hid, new), hid

    zero = jnp.zeros((x.shape[0], h * e))
    _, y = jax.lax.scan(step, (zero, zero, zero, zero), jnp.swapaxes(wx, 0, 1))
    y = jnp.swapaxes(y, 0, 1).reshape(*x.shape[:2], h, e)
    y = layer_norm(y, 1.0, 0.0).reshape(*x.shape[:2], -1) * p["gn"]
    return y @ p["out"]


@model(
    "recurrent", "mlstm",
    lambda d, h, e: {
        "in": (3, d), **dict.fromkeys("qkv", (d, h, e)), "i": (d, h), "f": (d, h), "bi": (h,),
        "bf": (h,), "o": (h, e, d), "out": (d, 2),
    },
    {"d": 4, "h": 2, "e": 3}, "d h e",
)  # fmt: skip
def _(p, s, x):
    """xLSTM's matrix memory in its parallel form, in log space."""
    x = x @ p["in"]
    q, k, v = (jnp.einsum("btd,dhe->bhte", x, p[n]) for n in "qkv")
    i, f = (jnp.einsum("btd,dh->bht", x, p[n]) + p["b" + n][:, None] for n in "if")
    c = jnp.cumsum(jax.nn.log_sigmoid(f), -1)
    log_d = c[..., :, None] - c[..., None, :] + i[..., None, :]
    log_d = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), log_d, -jnp.inf)
    m = jnp.max(log_d, -1, keepdims=True)
    scores = jnp.einsum("bhte,bhse->bhts", q, k) / jnp.sqrt(s["e"]) * jnp.exp(log_d - m)
    n = jnp.maximum(jnp.abs(scores.sum(-1, keepdims=True)), jnp.exp(-m))
    y = jnp.einsum("bhts,bhse->bthe", scores / (n + 1e-6), v)
    return (x + jnp.einsum("bthe,hed->btd", y, p["o"])) @ p["out"]


@model(
    "recurrent", "retention in chunks",
    lambda d, hd, e: {
        "in": (3, d), "q": (d, 2 * hd), "k": (d, 2 * hd), "v": (d, 2 * e), "g": (d, 2 * e),
        "o": (2 * e, d), "out": (d, 2),
    },
    {"d": 4, "hd": 3, "e": 4}, "d hd e",
    refused=("e x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """RetNet: a fixed decay a head, retention by chunks of two, group norm without parameters."""
    x = jnp.pad(x @ p["in"], ((0, 0), (0, 1), (0, 0)))
    b, n = x.shape[:2]
    gamma = jnp.log(1 - 2.0 ** (-5 - jnp.arange(2.0)))
    q, k, v = (heads(x @ p[m], 2).reshape(b, n // 2, 2, 2, -1) for m in "qkv")
    q = q * s["hd"] ** -0.5
    i = jnp.arange(2.0)
    inner = jnp.where(i[:, None] >= i, jnp.exp(gamma[:, None, None] * (i[:, None] - i)), 0)
    within = jnp.einsum("bcihd,bcjhd,hij,bcjhe->bcihe", q, k, inner, v)
    out_decay, in_decay = jnp.exp(jnp.outer(i + 1, gamma)), jnp.exp(jnp.outer(1 - i, gamma))
    kv = jnp.einsum("bcjhd,jh,bcjhe->bchde", k, in_decay, v)

    def step(state, new):
        return state * jnp.exp(2 * gamma)[:, None, None] + new, state

    _, states = jax.lax.scan(step, jnp.zeros_like(kv[:, 0]), jnp.moveaxis(kv, 1, 0))
    across = jnp.einsum("bcihd,cbhde,ih->bcihe", q, states, out_decay)
    y = layer_norm(within + across, 1.0, 0.0).reshape(b, n, -1)
    return (x + (silu(x @ p["g"]) * y) @ p["o"]) @ p["out"]


@model(
    "recurrent", "delta rule",
    lambda d, e, f: {
        "in": (3, d), "q": (d, e), "k": (d, e), "v": (d, f), "beta": (d, 1), "o": (f, d),
        "out": (d, 2),
    },
    {"d": 4, "e": 3, "f": 5}, "d e f",
)  # fmt: skip
def _(p, s, x):
    """DeltaNet: a fast weight that is corrected towards each value, keys of unit length."""
    x = x @ p["in"]
    q, k, v = (silu(x @ p[n]) for n in "qkv")
    unit = lambda t: t * jax.lax.rsqrt(jnp.sum(t * t, -1, keepdims=True) + 1e-6)
    beta = sigmoid(x @ p["beta"])

    def one(q, k, v, beta):
        def step(w, t):
            q, k, v, beta = t
            w = w + beta * jnp.outer(v - w @ k, k)
            return w, w @ q

        return jax.lax.scan(step, jnp.zeros((v.shape[-1], k.shape[-1])), (q, k, v, beta))[1]

    return (x + jax.vmap(one)(unit(q), unit(k), v, beta) @ p["o"]) @ p["out"]
