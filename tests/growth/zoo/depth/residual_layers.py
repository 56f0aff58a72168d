"""Layers that add to a stream, in lists and under scans: a new one adds 0."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tests.growth.zoo.building import SEQUENCE, draw, rms
from tests.growth.zoo.depth.making import add, model, one, refused
from tests.growth.zoo.depth.plain_layers import X, convolve

DEEPER = {"deeper": {"depth": 3}}
relu, gelu, sigmoid, softmax = jax.nn.relu, jax.nn.gelu, jax.nn.sigmoid, jax.nn.softmax


def residual_shapes(width, depth):
    layers = [{"up": (5, width), "down": (width, 5)} for _ in range(depth)]
    return {"layers": layers, "out": (5, 3)}


@model(
    "perceptron", "residual layers", residual_shapes, {"width": 4, "depth": 2},
    {**DEEPER, "wider too": {"depth": 5, "width": 6}}, draw(4, 2, 5).astype("float32"),
    dtype=None,
)  # fmt: skip
def _(p, x):
    for layer in p["layers"]:
        x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
    return x @ p["out"]


@model(
    "perceptron", "blocks without a head",
    lambda depth: {n: {"up": (4, 6), "down": (6, 4)} for n in ("first", "last", "later")[:depth]},
    {"depth": 2}, DEEPER, draw(1, 5, 4),
)  # fmt: skip
def _(p, x):
    """A new block has a name behind all old ones."""
    for name in sorted(p):
        x = x + jnp.tanh(x @ p[name]["up"]) @ p[name]["down"]
    return x


def batch_norm(p, x):
    x = (x - p["mean"]) / jnp.sqrt(p["var"] + 1e-5)
    return x * p["scale"] + p["bias"]


def batch_norm_shapes(depth):
    norm = dict.fromkeys(("mean", "var", "scale", "bias"), (4,))
    block = {"conv1": (3, 3, 4, 4), "conv2": (3, 3, 4, 4), "norm1": norm, "norm2": norm}
    return {"blocks": [block] * depth}


@model(
    "convolution", "residual, batch norm", batch_norm_shapes, {"depth": 2}, DEEPER,
    draw(9, 2, 5, 5, 4), hows=("identity",),
    trainable=lambda path: not path.endswith(("mean", "var")),
)  # fmt: skip
def _(params, x):
    for p in params["blocks"]:
        y = relu(batch_norm(p["norm1"], convolve(x, p["conv1"])))
        x = relu(x + batch_norm(p["norm2"], convolve(y, p["conv2"])))
    return jnp.mean(x, (1, 2))


def layer_norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def post_norm(params, x, gated):
    for _, p in sorted(params.items()):
        y = layer_norm(x + gelu(x @ p["up"]) @ p["down"], p)
        x = x + p["gate"] * (y - x) if gated else y
    return x


def post_norm_shapes(depth, gated):
    block = {"up": (3, 5), "down": (5, 3), "scale": (3,), "bias": (3,)}
    return {f"block{i}": block | ({"gate": ()} if gated else {}) for i in range(depth)}


for _gated in (False, True):
    add(
        "perceptron", f"post-norm{' with a gate' if _gated else ''}",
        one(functools.partial(post_norm, gated=_gated),
            functools.partial(post_norm_shapes, gated=_gated)),
        {"depth": 1}, {"deeper": {"depth": 2}}, X,
        refused={} if _gated else refused("deeper", "needs a gate", ["identity"]),
    )  # fmt: skip


@model(
    "perceptron", "post-norm with a head",
    lambda width, hidden, depth: {
        "blocks": [{"up": (width, hidden), "down": (hidden, width), "scale": (width,)}] * depth,
        "out": (width, 2),
    },
    {"width": 3, "hidden": 5, "depth": 2},
    {"deeper": {"depth": 4}, "wider too": {"hidden": 10, "depth": 4}}, X,
    refused={f"{variant}, identity": "needs a gate" for variant in ("deeper", "wider too")},
)  # fmt: skip
def _(params, x):
    for p in params["blocks"]:
        y = x + gelu(x @ p["up"]) @ p["down"]
        y = y - y.mean(-1, keepdims=True)
        x = y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6) * p["scale"]
    return x @ params["out"]


# --- stacked under a scan ------------------------------------------------------------------------


@model(
    "perceptron", "under a scan",
    lambda depth: {
        "layers": {"up": (depth, 3, 5), "b1": (depth, 5), "down": (depth, 5, 3), "b2": (depth, 3),
                   "scale": (depth, 3), "bias": (depth, 3)},
        "out": (3, 2),
    },
    {"depth": 2}, {"deeper": {"depth": 4}}, X,
)  # fmt: skip
def _(params, x):
    def block(x, p):
        h = layer_norm(x, p)
        return x + gelu(h @ p["up"] + p["b1"]) @ p["down"] + p["b2"], None

    x, _ = jax.lax.scan(jax.checkpoint(block), x, params["layers"])
    return x @ params["out"]


@model(
    "perceptron", "under a scan, no head",
    lambda hidden, depth: {
        "layers": {"up": (depth, 3, hidden), "down": (depth, hidden, 3), "bias": (depth, 3)}
    },
    {"hidden": 4, "depth": 2}, {"wider too": {"hidden": 10, "depth": 5}}, X, hows=("identity",),
)  # fmt: skip
def _(params, x):
    def block(x, p):
        return x + jnp.tanh(x @ p["up"]) @ p["down"] + p["bias"], None

    return jax.lax.scan(block, x, params["layers"])[0]


@model(
    "perceptron", "a penalty carried",
    lambda depth, e: {
        "in": (3, e), "out": (e, 2), "layers": {"a": (depth, e, 5), "b": (depth, 5, e)}
    },
    {"depth": 2, "e": 4}, {"wider too": {"depth": 3, "e": 8}}, SEQUENCE[0],
)  # fmt: skip
def _(p, x):
    """A loop that carries a penalty beside its stream."""

    def layer(carry, w):
        x, penalty = carry
        h = jnp.tanh(x @ w["a"]) @ w["b"]
        return (x + h, penalty + jnp.square(h).mean()), None

    (x, penalty), _ = jax.lax.scan(layer, (x @ p["in"], 0.0), p["layers"])
    return x @ p["out"] + penalty


# --- as published --------------------------------------------------------------------------------


@model(
    "field", "coupling layers",
    lambda depth, e: {"layers": [{"a": (3, e), "b": (e, 6)}] * depth, "out": (6, 2)},
    {"depth": 2, "e": 5}, {"wider too": {"depth": 4, "e": 8}}, draw(6, 4, 6),
)  # fmt: skip
def _(p, x):
    """A flow: what is scaled by e⁰ and shifted by 0 stays as it is."""
    a, b = jnp.split(x, 2, -1)
    volume = jnp.zeros(x.shape[:1])
    for layer in p["layers"]:
        scale, shift = jnp.split(jnp.tanh(a @ layer["a"]) @ layer["b"], 2, -1)
        b = b * jnp.exp(scale) + shift
        volume = volume + scale.sum(-1)
    return jnp.concatenate([a, b], -1) @ p["out"] + volume[:, None]


@model(
    "attention", "products of three arrays",
    lambda depth, e: {
        "in": (3, 4), "out": (4, 2),
        "layers": [{"g": (4,), "qkv": (3, 4, 2, e), "o": (2, e, 4)}] * depth,
    },
    {"depth": 2, "e": 3}, {"wider too": {"depth": 4, "e": 9}}, SEQUENCE[0],
)  # fmt: skip
def _(p, x):
    """Products of three arrays, whose order depends on the size of a head."""
    x = x @ p["in"]
    for layer in p["layers"]:
        q, k, v = jnp.einsum("btd,cdhe->cbthe", rms(x, layer["g"]), layer["qkv"])
        w = softmax(jnp.einsum("bqhe,bkhe->bhqk", q, k) / jnp.sqrt(1.0 * q.shape[-1]))
        x = x + jnp.einsum("bhqk,bkhe,hed->bqd", w, v, layer["o"])
    return x @ p["out"]


@model(
    "convolution", "wavenet layers",
    lambda depth, d: {
        "in": (3, d), "out": (4, 2),
        "layers": [{"k": (2, d, 10), "skip": (5, 4), "res": (5, d)}] * depth,
    },
    {"depth": 2, "d": 4}, {"wider too": {"depth": 3, "d": 8}}, SEQUENCE[0],
)  # fmt: skip
def _(p, x):
    """Gated convolutions that add to a stream and to what is read at the end."""
    x, skips = x @ p["in"], 0.0
    for layer in p["layers"]:
        y = jax.lax.conv_general_dilated(
            x, layer["k"], (1,), [(1, 0)], dimension_numbers=("NWC", "WIO", "NWC")
        )
        a, b = jnp.split(y, 2, -1)
        y = jnp.tanh(a) * sigmoid(b)
        skips, x = skips + y @ layer["skip"], x + y @ layer["res"]
    return relu(skips) @ p["out"]
