"""Layers one after another, without a stream beside them: a new one is an identity matrix."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp

from tests.growth.zoo.building import draw, nested, standard
from tests.growth.zoo.depth.making import add, model, refused

X = draw(7, 6, 3)
NAMES = {  # of the layers at each depth, called as people call them
    "numbers": ([f"Dense_{i}" for i in range(3)], [f"Dense_{i}" for i in range(4)]),
    "words": (["first", "middle", "last"], ["first", "middle", "more", "last"]),
    "dots": (["h.0.fc", "h.1.fc", "out"], ["h.0.fc", "h.1.fc", "h.2.fc", "out"]),
}


def chain(params, x, names, act, parts=("w", "b")):
    weight, bias = parts
    *hidden, last = names
    for name in hidden:
        x = act(x @ params[name][weight] + params[name][bias])
    return x @ params[last][weight] + params[last][bias]


def chain_shapes(names, sizes, parts=("w", "b")):
    layers = zip(names, itertools.pairwise(sizes), strict=True)
    return nested({name: dict(zip(parts, (pair, pair[1:]), strict=True)) for name, pair in layers})


def named(names, act=jax.nn.relu, parts=("w", "b")):
    return standard(functools.partial(chain, names=names, act=act, parts=parts))


def by_kind(kind, width, depth):
    names = NAMES[kind][depth - 3]
    return named(names), chain_shapes(names, [3, *[width] * (depth - 1), 2])


def between(widths):
    names = ["in", *["more"] * (len(widths) - 1), "out"]
    return named(names), chain_shapes(names, [3, *widths, 2])


def perceptron(act, depth):
    names, parts = [f"Dense_{i}" for i in range(depth + 1)], ("kernel", "bias")
    return named(names, act, parts), chain_shapes(names, [3, *[8] * depth, 2], parts)


for _kind in NAMES:
    add(
        "perceptron", f"layers named by {_kind}", by_kind,
        {"kind": _kind, "width": 8, "depth": 3},
        {"deeper": {"depth": 4}, "wider too": {"depth": 4, "width": 16}}, X,
    )  # fmt: skip
add(
    "perceptron", "a new layer of another width", between, {"widths": (4,)},
    {"deeper": {"widths": (8, 12)}}, X, hows=("identity",), of="widths",
)  # fmt: skip

_SHAPES = "no old layer has the shapes"
_TANH = refused("deeper", "ReLU", ["identity"])
for _name, _depth, _act, _refused in (
    ("relu layers", 2, jax.nn.relu, {}),
    ("one relu layer", 1, jax.nn.relu, refused("deeper", _SHAPES)),
    ("tanh layers", 2, jnp.tanh, _TANH),
    ("one tanh layer", 1, jnp.tanh, _TANH | refused("deeper", _SHAPES)),
):
    add(
        "perceptron", _name, perceptron, {"act": _act, "depth": _depth},
        {"deeper": {"depth": 4}}, X, refused=_refused,
    )  # fmt: skip


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def convolution_shapes(depth):
    layer = lambda i: {"kernel": (3, 3, i, 4), "bias": (4,)}
    return {"convs": [layer(2), *(layer(4) for _ in range(1, depth))], "out": (4, 2)}


@model(
    "convolution", "convolution layers", convolution_shapes, {"depth": 2}, {"deeper": {"depth": 3}},
    draw(5, 2, 6, 6, 2),
)  # fmt: skip
def _(params, x):
    for layer in params["convs"]:
        x = jax.nn.relu(convolve(x, layer["kernel"]) + layer["bias"])
    return jnp.mean(x, (1, 2)) @ params["out"]


@model(
    "perceptron", "layers without a head",
    lambda depth: {"layers": [{"w": (4, 4), "b": (4,)}] * depth}, {"depth": 2},
    {"deeper": {"depth": 3}}, draw(1, 5, 4),
)  # fmt: skip
def _(p, x):
    """All layers are alike, and nothing comes after them."""
    for layer in p["layers"]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x
