"""Linen modules that gain layers: blocks with names, and blocks in one compact module."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp

from tests.growth.zoo.building import draw, linen
from tests.growth.zoo.depth.making import FEW, HOWS, add, refused
from tests.growth.zoo.depth.plain_layers import X

F64 = {"param_dtype": jnp.float64}
FLAT, SEQUENCE = draw(0, 6, 5), draw(0, 2, 5, 6)
IMAGES, FRAMES = draw(1, 2, 8, 8, 3), draw(1, 2, 6, 6, 2)


class Perceptron(nn.Module):
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for size in self.hidden:
            x = nn.relu(nn.Dense(size, **F64)(x))
        return nn.Dense(3, **F64)(x)


class GatedBlock(nn.Module):
    """Attention before a norm, or behind one with a gate."""

    width: int
    gated: bool = False

    @nn.compact
    def __call__(self, x):
        norm = lambda: nn.LayerNorm(dtype=jnp.float64, **F64)
        linear = functools.partial(nn.DenseGeneral, **F64)
        h = x if self.gated else norm()(x)
        q, k, v = (linear((2, self.width // 2), name=name)(h) for name in "qkv")
        scores = jnp.einsum("qhd,khd->hqk", q, k)
        y = linear(self.width, axis=(-2, -1))(jnp.einsum("hqk,khd->qhd", nn.softmax(scores), v))
        if not self.gated:
            return x + y
        gate = self.param("gate", nn.initializers.ones, (), jnp.float64)
        return x + gate * (norm()(x + y) - x)


class NamedBlocks(nn.Module):
    """A module checks the shapes of its parameters: it cannot be run at any other size."""

    width: int
    depth: int
    gated: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, **F64)(x)
        for i in range(self.depth):
            x = GatedBlock(self.width, self.gated, name=f"block_{i}")(x)
        return nn.Dense(2, **F64)(x)


class PreNorm(nn.Module):
    depth: int
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, **F64)(x)
        for _ in range(self.depth):
            h = nn.LayerNorm(**F64)(x)
            x = x + nn.MultiHeadDotProductAttention(2, **F64)(h, h)
            h = nn.gelu(nn.Dense(2 * self.width, **F64)(nn.LayerNorm(**F64)(x)))
            x = x + nn.Dense(self.width, **F64)(h)
        return nn.Dense(3, **F64)(nn.LayerNorm(**F64)(x))


class PostNorm(nn.Module):
    depth: int
    width: int = 8
    first: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, **F64)(x)
        if self.first:
            x = nn.LayerNorm(**F64)(x)
        for _ in range(self.depth):
            h = nn.gelu(nn.Dense(2 * self.width, **F64)(x))
            x = nn.LayerNorm(**F64)(x + nn.Dense(self.width, **F64)(h))
        return nn.Dense(3, **F64)(x)


class Stages(nn.Module):
    depth: tuple[int, ...]
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3, 3), **F64)(x)
        for i, depth in enumerate(self.depth):
            conv = lambda stride, i=i: nn.Conv(self.width * 2**i, (3, 3), strides=stride, **F64)
            x = conv(2)(x)
            for _ in range(depth):
                y = conv(1)(nn.relu(nn.GroupNorm(4, **F64)(x)))
                x = x + conv(1)(nn.relu(nn.GroupNorm(4, **F64)(y)))
        return nn.Dense(3, **F64)(x.mean((1, 2)))


class BatchNormBlock(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        norm = lambda: nn.BatchNorm(use_running_average=not train, dtype=jnp.float64, **F64)
        conv = lambda: nn.Conv(self.width, (3, 3), use_bias=False, **F64)
        y = norm()(conv()(nn.relu(norm()(conv()(x)))))
        return nn.relu(x + y)


class BatchNormBlocks(nn.Module):
    width: int = 4
    depth: int = 1

    @nn.compact
    def __call__(self, x, train):
        norm = lambda: nn.BatchNorm(use_running_average=not train, dtype=jnp.float64, **F64)
        conv = lambda: nn.Conv(self.width, (3, 3), use_bias=False, **F64)
        x = nn.relu(norm()(conv()(x)))
        for i in range(self.depth):
            x = BatchNormBlock(self.width, name=f"block_{i}")(x, train)
        return nn.Dense(3, **F64)(x.mean((1, 2)))


def module(family, name, kind, base, grown, x, hows=HOWS, call=None, **tags):
    build = linen(kind, (x,), **call or {})
    add(family, name, build, base, grown, x, hows=hows, front_end="linen", **tags)


module(
    "perceptron", "dense layers in one module", Perceptron, {"hidden": (8,)},
    {"wider": {"hidden": (13,)}, "wider too": {"hidden": (16, 24)}}, FLAT, ("identity",),
    of="hidden",
)  # fmt: skip
_NONE = "does not belong to a sequence of layers"
for _gated in (False, True):
    _name = f"named blocks{', gated' if _gated else ''}"
    _base = {"width": 4, "gated": _gated}
    module(
        "attention", _name, NamedBlocks, _base | {"depth": 1},
        {"wider too": {"width": 8, "depth": 3}}, X,
    )  # fmt: skip
    module(
        "attention", f"{_name}, none yet", NamedBlocks, _base | {"depth": 0},
        {"wider too": {"width": 8, "depth": 1}}, X, refused=refused("wider too", _NONE),
    )  # fmt: skip
module(
    "attention", "in one module", PreNorm, {"depth": 2}, {"wider too": {"depth": 4, "width": 16}},
    SEQUENCE,
)  # fmt: skip
module(
    "attention", "one block in one module", PreNorm, {"depth": 1}, {"deeper": {"depth": 3}},
    SEQUENCE, FEW,
)  # fmt: skip
module(
    "perceptron", "in one module, post-norm", PostNorm, {"depth": 2}, {"deeper": {"depth": 4}},
    SEQUENCE, refused={"deeper, identity": "cannot be an identity"},
)  # fmt: skip
module(
    "perceptron", "in one module, a norm first", PostNorm, {"depth": 2, "first": True},
    {"deeper": {"depth": 4}}, SEQUENCE,
    refused=refused("deeper", "where a block starts", ("stack", "interpose", "last"))
    | {"deeper, identity": "cannot be an identity"},
)  # fmt: skip
module(
    "convolution", "in one module, stages", Stages, {"depth": (1, 2)},
    {"wider too": {"depth": (3, 3), "width": 16}}, IMAGES, FEW,
)  # fmt: skip
module(
    "convolution", "residual, batch statistics", BatchNormBlocks, {},
    {"wider too": {"width": 8, "depth": 3}}, FRAMES, ("identity",), {"train": False},
    trainable=lambda path: not path.startswith("batch_stats"), dtype=None,
)  # fmt: skip
