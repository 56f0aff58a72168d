"""Modules of NNX and Equinox that gain layers, however they hold them."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx

from tests.growth.zoo.building import draw, equinox_build, nnx_build
from tests.growth.zoo.depth.making import add

X = draw(0, 3, 5)
F64 = {"param_dtype": jnp.float64}
SIZES = {"width": 6, "hidden": 8, "depth": 2}


class NnxLayer(nnx.Module):
    def __init__(self, width, hidden, *, rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs, **F64)
        self.up = nnx.Linear(width, hidden, rngs=rngs, **F64)
        self.down = nnx.Linear(hidden, width, rngs=rngs, **F64)

    def __call__(self, x):
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


class NnxLayers(nnx.Module):
    """Layers in an `nnx.List`, in a `Sequential`, or stacked by `vmap` under a scan."""

    def __init__(self, width, hidden, depth, kind, *, rngs):
        self.first = nnx.Linear(5, width, rngs=rngs, **F64)
        self.last = nnx.Linear(width, 2, rngs=rngs, **F64)
        make = lambda rngs: NnxLayer(width, hidden, rngs=rngs)
        stack = nnx.split_rngs(splits=depth)(nnx.vmap(make))
        if kind == "list":
            self.layers = nnx.List([make(rngs) for _ in range(depth)])
        elif kind == "sequential":
            self.layers = nnx.Sequential(*(make(rngs) for _ in range(depth)))
        else:
            self.layers = stack(rngs)
        self.kind = nnx.static(kind) if hasattr(nnx, "static") else kind

    def __call__(self, x):
        x = self.first(x)
        if self.kind == "list":
            for layer in self.layers:
                x = layer(x)
        elif self.kind == "sequential":
            x = self.layers(x)
        else:
            x = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
                x, self.layers
            )
        return self.last(x)


class EqxLayer(eqx.Module):
    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width, hidden, key):
        self.norm = eqx.nn.LayerNorm(width)
        self.up = eqx.nn.Linear(width, hidden, key=key)
        self.down = eqx.nn.Linear(hidden, width, key=key)

    def __call__(self, x):
        return x + self.down(jax.nn.gelu(self.up(self.norm(x))))


class EqxLayers(eqx.Module):
    first: eqx.nn.Linear
    layers: list
    last: eqx.nn.Linear

    def __init__(self, width, hidden, depth):
        keys = jax.random.split(jax.random.key(0), depth + 2)
        self.first = eqx.nn.Linear(5, width, key=keys[0])
        self.layers = [EqxLayer(width, hidden, k) for k in keys[2:]]
        self.last = eqx.nn.Linear(width, 2, key=keys[1])

    def __call__(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


for _kind in ("list", "sequential", "stacked"):
    add(
        "perceptron", f"nnx {_kind}",
        nnx_build(lambda **sizes: NnxLayers(**sizes, rngs=nnx.Rngs(0)), pure=True),
        SIZES | {"kind": _kind},
        {"wider too": {"width": 12, "hidden": 20, "depth": 4}}, X, front_end="nnx",
    )  # fmt: skip
add(
    "perceptron", "equinox layers", equinox_build(EqxLayers), SIZES,
    {
        "wider": {"width": 12, "hidden": 20},
        "wider too": {"width": 12, "hidden": 20, "depth": 3},
    },
    X, front_end="equinox",
)  # fmt: skip
