"""Streams that a norm centres, to widths that are no multiples, and what looks like one."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tests.growth.zoo import registry
from tests.growth.zoo.building import draw, functions

X = draw(0, 2, 4, 6)
add = functools.partial(registry.add, "parts")


def centred(x, g, b):
    rest = x - x.mean(-1, keepdims=True)
    return g * rest / jnp.sqrt((rest**2).mean(-1, keepdims=True) + 1e-2) + b


def fast(x, g, b):
    mean = jnp.sum(x, -1) * (1 / x.shape[-1])
    variance = jnp.maximum(0.0, jnp.mean(x * x, -1) - mean**2)
    rest = x - jnp.broadcast_to(mean[..., None], x.shape)
    return rest * jax.lax.rsqrt(variance + 1e-2)[..., None] * g + b


def library(x, g, b):
    mean, variance = x.mean(-1, keepdims=True), jnp.var(x, -1, keepdims=True)
    return (x - mean) * (jax.lax.rsqrt(variance + 1e-2) * g) + b


def centred_stream(norm, p, s, x):
    h = x @ p["in"] + p["b"]
    h = jnp.where(x[..., :1] > 0, h, h * 0.5) + p["gain"] * h
    for i in range(2):
        h = h + jax.nn.gelu(norm(h, p[f"g{i}"], p[f"s{i}"]) @ p[f"up{i}"]) @ p[f"down{i}"]
    return norm(h, p["g"], p["s"]) @ p["out"]


def shapes(d, f):
    blocks = [
        {f"g{i}": (d,), f"s{i}": (d,), f"up{i}": (d, f), f"down{i}": (f, d)} for i in range(2)
    ]
    ends = {"in": (6, d), "b": (d,), "gain": (), "g": (d,), "s": (d,), "out": (d, 3)}
    return ends | blocks[0] | blocks[1]


for _norm in (centred, fast, library):
    add(
        "attention", f"row means, {_norm.__name__}",
        functions(functools.partial(centred_stream, _norm), shapes), {"d": 5, "f": 5},
        {str(d): {"d": d, "f": 7} for d in (6, 8, 11)}, (X,), guessed=("6", "8", "11"),
    )  # fmt: skip


def after_norm(p, s, x):
    h = centred(x @ p["in"], p["g0"], p["s0"])
    h = centred(h + jnp.tanh(h @ p["up0"]) @ p["down0"], p["g1"], p["s1"])
    return h @ p["out"]


def bent(p, s, x):
    return centred(jax.nn.gelu(x @ p["in"]), p["g"], p["s"]) @ p["out"]


def scaled_branch(p, s, x):
    h = x @ p["in"]
    h = h + p["g0"] * (jnp.tanh(h @ p["up0"]) @ p["down0"])
    return centred(h, p["g"], p["s"]) @ p["out"]


for _fn in (after_norm, bent, scaled_branch):  # nothing can write the mean
    add(
        "perceptron", f"row means, {_fn.__name__}", functions(_fn, shapes), {"d": 5, "f": 5},
        {str(d): {"d": d} for d in (8, 10)}, (X,), refused={"8": "the mean of the old units"},
    )  # fmt: skip


def normalised(rest, p):
    return rest / jnp.sqrt((rest**2).mean(-1, keepdims=True) + 1e-2) @ p["out"]


NEAR_MISSES = {  # what is taken from each unit, which is not the mean of all
    "another mean": lambda h: jnp.flip(h, 1).mean(-1)[..., None],
    "twice the mean": lambda h: 2 * h.mean(-1)[..., None],
    "of all places": lambda h: h.mean((1, 2), keepdims=True),
    "of the square": lambda h: (h * h).mean(-1)[..., None],
}
for _name, _taken in NEAR_MISSES.items():

    def _net(p, s, x, taken=_taken):
        return normalised((h := x @ p["in"]) - taken(h), p)

    add(
        "operation", f"row means, {_name}",
        functions(_net, lambda d: {"in": (6, d), "out": (d, 3)}), {"d": 5}, {"8": {"d": 8}}, (X,),
        refused={"8": "not a multiple"},
    )  # fmt: skip
