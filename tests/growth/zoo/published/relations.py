"""Graphs, sets, tables and pairs."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo.building import FLAT, IMAGE, TOKENS, draw, heads, layer_norm, linen
from tests.growth.zoo.published.making import (
    attend,
    keep,
    model,
    relu,
    sigmoid,
    softmax,
)

IDS = (np.array([[0, 1, 2, 0, 3], [2, 2, 1, 4, 7]]),)
EDGES = np.array([[0, 1, 2, 3, 4, 0, 2], [1, 2, 0, 4, 3, 3, 4]])
NODES = (draw(4, 5, 3),)


@model(
    "relation", "graph attention",
    lambda d, h, e: {"in": (3, d), "w": (d, h, e), "src": (h, e), "dst": (h, e), "b": (h, e),
                     "w2": (h * e, d), "g": (d,), "bn": (d,), "out": (d, 2)},
    {"d": 4, "h": 2, "e": 3}, "d h e",
    inputs=NODES,
)  # fmt: skip
def _(p, s, x):
    """GAT: softmax over the edges that end in a node, by segments."""
    send, receive = EDGES
    h = jnp.einsum("nd,dhe->nhe", x @ p["in"], p["w"])
    score = (h * p["src"]).sum(-1)[send] + (h * p["dst"]).sum(-1)[receive]
    score = jax.nn.leaky_relu(score, 0.2)
    top = jax.ops.segment_max(score, receive, 5)
    score = jnp.exp(score - top[receive])
    score = score / jax.ops.segment_sum(score, receive, 5)[receive]
    y = jax.ops.segment_sum(score[..., None] * h[send], receive, 5) + p["b"]
    y = jax.nn.elu(y.reshape(5, -1)) @ p["w2"]
    y = (y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-5) * p["g"] + p["bn"]
    return relu(y) @ p["out"]


@model(
    "relation", "message passing",
    lambda d, e, m: {"n": (3, d), "ed": (2, e), "m1": (2 * d + e, m), "m2": (m, d),
                     "gru": (d, 3 * d), "gruh": (d, 3 * d), "att": (d, 1), "out": (3 * d, 2)},
    {"d": 4, "e": 2, "m": 5}, "d e m",
    inputs=NODES,
)  # fmt: skip
def _(p, s, x):
    """MPNN: messages of both ends and the edge, GRU updates, several aggregations, read-out."""
    send, receive = EDGES
    h = x @ p["n"]
    e = jnp.asarray(np.random.default_rng(0).normal(size=(7, 2))) @ p["ed"]
    for _ in range(2):
        m = relu(jnp.concatenate([h[send], h[receive], e], -1) @ p["m1"]) @ p["m2"]
        m = jnp.zeros_like(h).at[receive].add(m)
        zr, zh = jnp.split(m @ p["gru"] + h @ p["gruh"] * 0.5, [2 * s["d"]], -1)
        z, r = jnp.split(sigmoid(zr), 2, -1)
        h = (1 - z) * h + z * jnp.tanh(zh * r)
    w = softmax(h @ p["att"], 0)
    return jnp.concatenate([(w * h).sum(0), h.max(0), h.mean(0)], -1) @ p["out"]


@model(
    "relation", "graph sage",
    lambda d, e: {"s1": (3, d), "n1": (3, d), "s2": (d, e), "n2": (d, e), "out": (2 * e, 2)},
    {"d": 4, "e": 3}, "d e",
    inputs=NODES,
)  # fmt: skip
def _(p, s, x):
    """Neighbours' means, rows of unit length, a link score from products of ends."""
    send, receive = EDGES
    count = jax.ops.segment_sum(jnp.ones(7), receive, 5)
    for i in "12":
        near = jax.ops.segment_sum(x[send], receive, 5) / jnp.maximum(count, 1)[:, None]
        x = x @ p["s" + i] + near @ p["n" + i]
        x = relu(x) if i == "1" else x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    links = jnp.sum(x[send] * x[receive], -1, keepdims=True)
    return jnp.concatenate([x[send], x[receive]], -1) @ p["out"] * sigmoid(links)


@model(
    "relation", "graph convolution",
    lambda d, e: {"w1": (3, d), "w2": (d, e), "b": (e,), "out": (2 * e, 2)},
    {"d": 4, "e": 3}, "d e",
    inputs=NODES,
)  # fmt: skip
def _(p, s, x):
    a = np.eye(5)
    a[EDGES[0], EDGES[1]] = 1
    a = jnp.asarray(a / np.sqrt(a.sum(0)[:, None] * a.sum(1)))
    x = a @ relu(a @ x @ p["w1"]) @ p["w2"] + p["b"]
    pooled = jnp.concatenate([x.mean(0), jax.nn.logsumexp(x, 0)])
    return pooled @ p["out"]


@model(
    "relation", "point net",
    lambda d, t, k: {"t1": (3, t), "t2": (t, 9), "w1": (3, d), "f1": (d, k), "f2": (k, d * d),
                     "w2": (d, k), "seg": (d + k, k), "out": (k, 2)},
    {"d": 4, "t": 5, "k": 6}, "d t k",
)  # fmt: skip
def _(p, s, x):
    """Transforms of points and of features predicted by small networks, max over points."""
    t = relu(x @ p["t1"]).max(1) @ p["t2"]
    x = jnp.matmul(x, t.reshape(-1, 3, 3) + jnp.eye(3))
    y = relu(x @ p["w1"])
    t = relu(y @ p["f1"]).max(1) @ p["f2"]
    y = y @ t.reshape(-1, s["d"], s["d"])
    top = relu(y @ p["w2"]).max(1, keepdims=True)
    y = jnp.concatenate([y, jnp.tile(top, (1, 5, 1))], -1)
    return relu(y @ p["seg"]) @ p["out"]


@model(
    "attention", "set transformer",
    lambda d, i: {"in": (3, d), "ind": (i, d), "seed": (2, d),
                     **{f"{n}{j}": (d, d) for n in "qkvo" for j in range(3)},
                     **{f"{n}{j}": (d,) for n in "gb" for j in range(3)}, "out": (2 * d, 2)},
    {"d": 4, "i": 3}, "d i", refused=("d x1.5", "i x1.5", "all x1.5"),
)  # fmt: skip
def _(p, s, x):
    """Induced set attention and pooling by multi-head attention; post-norm blocks."""

    def mab(q, k, j):
        y = q @ p[f"q{j}"]
        split = lambda t: heads(t, 2)
        o = split(y) + attend(split(y), split(k @ p[f"k{j}"]), split(k @ p[f"v{j}"]))
        o = layer_norm(o.reshape(y.shape), p[f"g{j}"], p[f"b{j}"])
        return o + relu(o @ p[f"o{j}"])

    x = x @ p["in"]
    full = lambda n: jnp.broadcast_to(p[n], (x.shape[0], *p[n].shape))
    x = mab(x, mab(full("ind"), x, 0), 1)
    return mab(full("seed"), x, 2).reshape(x.shape[0], -1) @ p["out"]


class DeepFM(nn.Module):
    """Field embeddings: linear part, pairwise products, cross layers and a deep part."""

    d: int = 4
    hidden: int = 5

    @nn.compact
    def __call__(self, ids):
        offsets = jnp.array([0, 3, 6, 9, 12])
        e = nn.Embed(20, self.d)(ids + offsets)
        first = nn.Embed(20, 1)(ids + offsets).sum((1, 2))
        fm = 0.5 * (e.sum(1) ** 2 - (e**2).sum(1)).sum(-1)
        x0 = x = e.reshape(e.shape[0], -1)
        for _ in range(2):
            x = x0 * nn.Dense(x0.shape[-1])(x) + x
        deep = nn.relu(nn.Dense(self.hidden)(x0))
        deep = nn.Dropout(0.5, deterministic=True)(nn.relu(nn.Dense(self.hidden)(deep)))
        return first + fm + nn.Dense(1)(jnp.concatenate([x, deep], -1))[:, 0]


keep("relation", "deep fm", linen(DeepFM, IDS), {"d": 4, "hidden": 5}, "d hidden", IDS)


@model(
    "relation", "dlrm",
    lambda d, b, t: {"emb": (3, 6, d), "b1": (3, b), "b2": (b, d), "t1": (6 + d, t),
                     "t2": (t, 1)},
    {"d": 4, "b": 5, "t": 6}, "d b t",
    inputs=(draw(5, 2, 3), np.array([[0, 3, 5], [1, 1, 2]])),
)  # fmt: skip
def _(p, s, dense, ids):
    """Dot products of all pairs of embeddings and of the dense features' own."""
    x = relu(relu(dense @ p["b1"]) @ p["b2"])
    e = jax.vmap(lambda table, i: table[i], (0, 1), 1)(p["emb"], ids)
    z = jnp.concatenate([x[:, None], e], 1)
    pairs = jnp.einsum("bid,bjd->bij", z, z)
    i, j = np.triu_indices(4, 1)
    return relu(jnp.concatenate([x, pairs[:, i, j]], -1) @ p["t1"]) @ p["t2"]


class Towers(nn.Module):
    """CLIP: an image and a text tower, unit vectors, a learned temperature, both-way loss."""

    image: int = 4
    text: int = 5
    joint: int = 3
    hidden: int = 6

    @nn.compact
    def __call__(self, x, tokens):
        x = nn.Conv(self.image, (4, 4), (4, 4))(x).reshape(x.shape[0], -1, self.image)
        cls = self.param("cls", nn.initializers.normal(), (self.image,))
        x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, self.image)), x], 1)
        x = nn.LayerNorm()(x + self.param("pos", nn.initializers.normal(), (5, self.image)))
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(2, qkv_features=4)(y)
        y = nn.Dense(self.hidden)(nn.LayerNorm()(x))
        x = x + nn.Dense(self.image)(y * nn.sigmoid(1.702 * y))
        i = nn.Dense(self.joint, use_bias=False)(nn.LayerNorm()(x[:, 0]))
        t = nn.Embed(11, self.text)(tokens)
        t = t + nn.MultiHeadDotProductAttention(2, qkv_features=4)(
            nn.LayerNorm()(t), mask=nn.make_causal_mask(tokens)
        )
        t = nn.LayerNorm()(t)[jnp.arange(t.shape[0]), tokens.argmax(-1)]
        t = nn.Dense(self.joint, use_bias=False)(t)
        i = i / jnp.linalg.norm(i, axis=-1, keepdims=True)
        t = t / jnp.linalg.norm(t, axis=-1, keepdims=True)
        logits = jnp.exp(self.param("scale", nn.initializers.zeros, ())) * i @ t.T
        each = lambda z: -jnp.diag(nn.log_softmax(z)).mean()
        return jnp.stack([(each(logits) + each(logits.T)) / 2])


keep("relation", "clip",
     linen(Towers, (*IMAGE, *TOKENS)), {"image": 4, "text": 6, "joint": 3, "hidden": 6},
     "image text joint hidden", (*IMAGE, *TOKENS), refused=("image x1.5", "all x1.5"))  # fmt: skip


@model(
    "relation", "byol",
    lambda d, h, z: {f"{n}{i}": w for n in "ot" for i, w in enumerate(
        [(7, d), (d, h), (h,), (h,), (h, z)])} | {"p1": (z, h), "p2": (h, z)},
    {"d": 4, "h": 5, "z": 3}, "d h z",
    inputs=FLAT,
)  # fmt: skip
def _(p, s, x):
    """An online and a target network with batch norm, a predictor, cosine loss."""

    def project(n, x):
        y = relu(x @ p[n + "0"]) @ p[n + "1"]
        y = (y - y.mean(0)) * jax.lax.rsqrt(y.var(0) + 1e-5) * p[n + "2"] + p[n + "3"]
        return relu(y) @ p[n + "4"]

    unit = lambda t: t / (jnp.linalg.norm(t, axis=-1, keepdims=True))
    online = relu(project("o", x) @ p["p1"]) @ p["p2"]
    target = jax.lax.stop_gradient(project("t", x[::-1]))
    return 2 - 2 * (unit(online) * unit(target)).sum(-1)


@model(
    "relation", "vae",
    lambda d, z: {"e1": (7, d), "be": (d,), "mu": (d, z), "lv": (d, z), "d1": (z, d),
                  "out": (d, 7)},
    {"d": 4, "z": 3}, "d",
    inputs=FLAT,
)  # fmt: skip
def _(p, s, x):
    """Reparametrised with a key inside, and the evidence bound as the result."""
    h = jnp.tanh(x @ p["e1"] + p["be"])
    mu, lv = h @ p["mu"], jnp.clip(h @ p["lv"], -5, 5)
    z = mu + jnp.exp(lv / 2) * jax.random.normal(jax.random.key(1), mu.shape)
    y = jax.nn.tanh(z @ p["d1"]) @ p["out"]
    kl = -0.5 * (1 + lv - mu**2 - jnp.exp(lv)).sum(-1)
    return ((y - x) ** 2).sum(-1) + kl


class Gan(nn.Module):
    """DCGAN: generator by transposed convolutions, discriminator with spectral norms."""

    g: int = 4
    d: int = 3

    @nn.compact
    def __call__(self, z):
        bn = functools.partial(nn.BatchNorm, use_running_average=False)
        x = nn.Dense(2 * 2 * 2 * self.g)(z).reshape(z.shape[0], 2, 2, -1)
        x = nn.ConvTranspose(self.g, (4, 4), (2, 2), use_bias=False)(nn.relu(bn()(x)))
        x = jnp.tanh(nn.ConvTranspose(3, (4, 4), (2, 2))(nn.relu(bn()(x))))
        norm = functools.partial(nn.SpectralNorm, collection_name="stats")
        x = nn.leaky_relu(norm(nn.Conv(self.d, (4, 4), (2, 2)))(x, update_stats=False), 0.2)
        x = nn.leaky_relu(norm(nn.Conv(2 * self.d, (4, 4), (2, 2)))(x, update_stats=False), 0.2)
        return nn.Dense(1)(x.reshape(x.shape[0], -1))


keep("relation", "gan", linen(Gan, FLAT, mutable=("batch_stats",)), {"g": 4, "d": 3}, "g d", FLAT)
