"""Layers of experts that gain layers, dense layers that become experts, and heads that grow alone.

The last two are not proved: an operator says so.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.growth.zoo import mixtures
from tests.growth.zoo.building import draw, linen, nested, standard
from tests.growth.zoo.depth.making import add, one

TOKENS = mixtures.TOKENS[0]


def of_experts(k, held, depth, **sizes):
    """Layers of experts between two matrices, one after another or in a scan."""

    def layer(x, p):
        top, which = jax.lax.top_k(x @ p["router"], k)
        y = mixtures.picked(p, x, which)
        return x + jnp.einsum("tkd,tk->td", y, jax.nn.softmax(top)), None

    def fn(p, x):
        x = x @ p["in"]
        if held == "scan":
            return jax.lax.scan(layer, x, p["layers"])[0] @ p["out"]
        for each in p["layers"]:
            x, _ = layer(x, each)
        return x @ p["out"]

    of = mixtures.shapes(**sizes)
    layer_shapes = {name: of[name] for name in ("router", "up", "up_b", "down", "down_b")}
    stacked = {name: (depth, *shape) for name, shape in layer_shapes.items()}
    layers = stacked if held == "scan" else [layer_shapes] * depth
    return standard(fn), nested({"in": of["in"], "out": of["out"], "layers": layers})


for _held in ("list", "scan"):
    add(
        "mixture", f"experts in a {_held}", of_experts, {"k": 2, "held": _held, "depth": 2},
        {"experts too": {"k": 4, "depth": 3, "experts": 6, "width": 8, "hidden": 7}}, TOKENS,
    )  # fmt: skip


class Dense(nn.Module):
    """`mixtures.Mixture` with one feed-forward layer in the place of the experts."""

    @nn.compact
    def __call__(self, x):
        dense = functools.partial(nn.Dense, param_dtype=x.dtype)
        norm = functools.partial(nn.LayerNorm, param_dtype=x.dtype)
        x = dense(4)(x)
        x = x + mixtures.Expert(4, 5, x.dtype, name="mlp")(norm()(x))
        return dense(2)(norm()(x))


def dense_or_mixture(experts, over_all=False):
    return mixtures.Mixture(dtype=jnp.float64, over_all=over_all) if experts else Dense()


add(
    "mixture", "dense to experts", linen(dense_or_mixture, (TOKENS,)), {"experts": 0},
    {
        "gates of the chosen": {"experts": 3},
        "gates over all": {"experts": 3, "over_all": True},
    },
    TOKENS, hows=("experts",), of="experts", front_end="linen",
)  # fmt: skip


def grouped_shapes(groups):
    return {
        "q": (6, 4, 3), "bq": (4, 3), "k": (6, groups, 3), "bk": (groups, 3),
        "v": (6, groups, 3), "bv": (groups, 3), "o": (12, 6),
    }  # fmt: skip


def grouped_queries(p, x):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) + p["b" + name] for name in "qkv")
    b, t, h, e = q.shape
    q = q.reshape(b, t, k.shape[2], h // k.shape[2], e)
    weights = jax.nn.softmax(jnp.einsum("btgre,bsge->bgrts", q, k) / e**0.5)
    return jnp.einsum("bgrts,bsge->btgre", weights, v).reshape(b, t, -1) @ p["o"]


for _name, _groups, _grown in (("one group", 1, (2, 4)), ("two groups", 2, (4,))):
    add(
        "attention", f"queries of {_name}", one(grouped_queries, grouped_shapes),
        {"groups": _groups}, {f"{n} groups": {"groups": n} for n in _grown}, draw(1, 2, 4, 6),
        hows=("groups",), of="groups", guessed=[f"{n} groups, groups" for n in _grown],
    )  # fmt: skip
