"""Small nets that tests of several mechanisms share."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from tests.growth.zoo import registry
from tests.growth.zoo.building import draw, functions, rms

FLAT = (draw(9, 5, 3).astype(np.float32),)
add = functools.partial(registry.add, "parts", dtype=None)


def one_hidden_layer(p, s, x):
    return jax.nn.gelu(x @ p["in"] + p["bias"]) @ p["out"]


def two_hidden_layers(p, s, x):
    for name in ("in", "mid"):
        x = s["act"](x @ p[name]["w"] + p[name]["b"])
    return x @ p["out"]["w"] + p["out"]["b"]


def two_hidden_shapes(n, act):
    sizes = {"in": (3, n), "mid": (n, n), "out": (n, 2)}
    return {name: {"w": size, "b": size[1:]} for name, size in sizes.items()}


def three_widths(p, s, x):
    """Every matrix in the middle grows on both sides."""
    for layer in p[:-1]:
        x = jax.nn.gelu(x @ layer["w"] + layer["b"])
    return x @ p[-1]["w"] + p[-1]["b"]


def three_width_shapes(a, b, c):
    return [{"w": pair, "b": pair[1:]} for pair in itertools.pairwise((6, a, b, c, 5))]


def homogeneous(p, s, x):
    h = jax.nn.relu(x @ p["in"] + p["bias"])
    return jax.nn.relu(h @ p["mid"]) @ p["out"]


def normalised_stream(p, s, x):
    """A residual stream whose one axis couples six leaves."""
    h = x @ p["embed"] + p["bias"]
    y = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-3) * (1.0 + p["norm"])
    h = h + jax.nn.gelu(y @ p["up"] + p["b"]) @ p["down"]
    return h @ p["head"]


add(
    "perceptron", "one hidden layer",
    functions(one_hidden_layer, lambda n: {"in": (3, n), "bias": (n,), "out": (n, 2)}),
    {"n": 4}, {"wider": {"n": 8}}, FLAT,
)  # fmt: skip
for _act in (jax.nn.relu, jax.nn.gelu):
    add(
        "perceptron", f"two hidden layers, {_act.__name__}",
        functions(two_hidden_layers, two_hidden_shapes), {"n": 8, "act": _act},
        {"wider": {"n": 32}}, FLAT,
    )  # fmt: skip
add(
    "perceptron", "three widths", functions(three_widths, three_width_shapes),
    {"a": 4, "b": 5, "c": 6}, {"all": {"a": 8, "b": 10, "c": 12}},
    (draw(2, 2, 6).astype(np.float32),),
)  # fmt: skip
add(
    "perceptron", "homogeneous layers",
    functions(
        homogeneous, lambda n, m: {"in": (3, n), "bias": (n,), "mid": (n, m), "out": (m, 2)}
    ),
    {"n": 4, "m": 6}, {"wider": {"n": 12, "m": 12}}, FLAT,
)  # fmt: skip
add(
    "perceptron", "normalised stream",
    functions(
        normalised_stream,
        lambda d, hidden: {
            "embed": (3, d), "bias": (d,), "norm": (d,), "up": (d, hidden), "b": (hidden,),
            "down": (hidden, d), "head": (d, 2),
        },
    ),
    {"d": 4, "hidden": 6}, {"wider": {"d": 8, "hidden": 15}}, FLAT,
)  # fmt: skip


def transformer(p, s, x):
    h = p["embed"][x] + p["positions"]
    y = rms(h, p["norm1"])
    q, k, v = (jnp.einsum("btd,dhe->bthe", y, p[name]) for name in "qkv")
    scores = jnp.einsum("bthe,bshe->bhts", q, k) / np.sqrt(q.shape[-1])
    mixed = jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(scores), v)
    h = h + jnp.einsum("bthe,hed->btd", mixed, p["o"])
    h = h + jax.nn.gelu(rms(h, p["norm2"]) @ p["up"]) @ p["down"]
    return rms(h, p["norm3"]) @ (p["embed"].T if s["tied"] else p["head"])


def transformer_shapes(d, heads, each, hidden, tied):
    return {
        "embed": (7, d), "positions": (4, d), "norm1": (d,), "norm2": (d,), "norm3": (d,),
        "q": (d, heads, each), "k": (d, heads, each), "v": (d, heads, each),
        "o": (heads, each, d), "up": (d, hidden), "down": (hidden, d), "head": (d, 7),
    }  # fmt: skip


for _tied in (False, True):
    add(
        "attention", f"heads of their own axes{', tied' if _tied else ''}",
        functions(transformer, transformer_shapes),
        {"d": 8, "heads": 2, "each": 4, "hidden": 16, "tied": _tied},
        {"wider": {"d": 16, "each": 8, "hidden": 64}},
        (np.random.default_rng(3).integers(0, 7, (2, 4), np.int32),),
    )  # fmt: skip


def sharded(p, s, x):
    """One block of attention and a gated feed-forward, with norms."""
    x = x @ p["in"]
    y = rms(x, p["g1"])
    q, k, v = ((y @ p[n]).reshape(*y.shape[:2], s["heads"], -1) for n in ("q", "k", "v"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(jnp.asarray(q.shape[-1], x.dtype))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    x = x + mixed.reshape(*y.shape[:2], -1) @ p["o"]
    y = rms(x, p["g2"])
    x = x + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"]
    return rms(x, p["g3"]) @ p["out"]


def sharded_shapes(width, heads, size, hidden):
    d, n, f = width, heads * size, hidden
    return {
        "in": (3, d), "g1": (d,), "g2": (d,), "g3": (d,), "q": (d, n), "k": (d, n), "v": (d, n),
        "o": (n, d), "gate": (d, f), "up": (d, f), "down": (f, d), "out": (d, 4),
    }  # fmt: skip


SPECS = {  # how the parameters of "sharded block" lie on devices
    "in": P(None, "x"), "g1": P("x"), "g2": P("x"), "g3": P("x"), "q": P(None, "x"),
    "k": P(None, "x"), "v": P("x", None), "o": P("x", None), "gate": P(None, "x"),
    "up": P("x", None), "down": P("x", None), "out": P("x", None),
}  # fmt: skip
add(
    "attention", "sharded block", functions(sharded, sharded_shapes),
    {"width": 16, "heads": 8, "size": 2, "hidden": 24},
    {"wider": {"width": 32, "heads": 16, "size": 4, "hidden": 48}},
    (draw(6, 2, 5, 3).astype(np.float32),),
)  # fmt: skip
