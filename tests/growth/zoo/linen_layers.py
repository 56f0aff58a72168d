"""Layers of Flax Linen as they come, at widths that are multiples and at others."""

from __future__ import annotations

import inspect

import flax.linen as nn
import numpy as np

from tests.growth.zoo import registry
from tests.growth.zoo.building import linen

RNG = np.random.default_rng(0)
SEQUENCE = RNG.normal(size=(2, 6, 4)).astype(np.float32)
IMAGE = RNG.normal(size=(2, 6, 6, 3)).astype(np.float32)
FRAMES = IMAGE[:, None].repeat(3, 1)
FLAT = RNG.normal(size=(5, 4)).astype(np.float32)
TOKENS = RNG.integers(0, 7, (2, 5), np.int32)


def unrolled(cell, x, *sizes):
    return nn.RNN(cell(*sizes, dtype=x.dtype, param_dtype=x.dtype))


def recurrent(cell):
    return lambda x, n: unrolled(cell, x, n)(x)


def stream(x, d, h):
    x = nn.Dense(d)(x)
    return nn.LayerNorm()(x + nn.SelfAttention(num_heads=h, qkv_features=d)(nn.LayerNorm()(x)))


def attend(tokens, d, n):
    embed = nn.Embed(n, d)
    return embed.attend(nn.gelu(nn.Dense(d)(embed(tokens))))


def cross(x, width, h):
    x = nn.Dense(8)(x)
    return nn.MultiHeadDotProductAttention(num_heads=h, qkv_features=width)(x, x)


def activations(x, n):
    kinds = (nn.elu, nn.selu, nn.celu, nn.softplus, nn.soft_sign, nn.relu6, nn.leaky_relu,
             nn.log_sigmoid, nn.hard_sigmoid, nn.hard_swish, nn.hard_tanh, nn.PReLU())  # fmt: skip
    return sum(f(nn.Dense(n)(x)) for f in kinds)


def between(layer):
    """A layer of b channels behind a convolution of a channels."""
    return lambda x, a, b: layer(b)(nn.relu(nn.Conv(a, (3, 3))(x)))


LAYERS = {  # name: family, layer, input, its sizes, those to which it grows
    "attention": ("attention", cross, SEQUENCE, (4, 2), [(8, 4), (12, 4)]),
    "self-attention": ("attention", stream, SEQUENCE, (8, 2), [(16, 2), (16, 4)]),
    "lstm": ("recurrent", recurrent(nn.LSTMCell), SEQUENCE, (4,), [(8,), (6,)]),
    "optimised lstm": ("recurrent", recurrent(nn.OptimizedLSTMCell), SEQUENCE, (4,), [(6,)]),
    "gru": ("recurrent", recurrent(nn.GRUCell), SEQUENCE, (4,), [(8,), (6,)]),
    "mgu": ("recurrent", recurrent(nn.MGUCell), SEQUENCE, (4,), [(6,)]),
    "simple cell": ("recurrent", recurrent(nn.SimpleCell), SEQUENCE, (4,), [(6,)]),
    "both directions": (
        "recurrent",
        lambda x, n: nn.Bidirectional(*(unrolled(nn.GRUCell, x, n) for _ in range(2)))(x),
        SEQUENCE, (4,), [(8,)]),
    "convolutional lstm": (
        "recurrent", lambda x, n: unrolled(nn.ConvLSTMCell, x, n, (3, 3))(x), FRAMES, (4,), [(8,)]),
    "local": (
        "convolution", between(lambda b: nn.ConvLocal(b, (3, 3))), IMAGE, (4, 5), [(6, 7)]),
    "transposed": (
        "convolution", between(lambda b: nn.ConvTranspose(b, (3, 3), strides=(2, 2))),
        IMAGE, (4, 5), [(6, 7)]),
    "circular": (
        "convolution", between(lambda b: nn.Conv(b, (3, 3), padding="CIRCULAR")),
        IMAGE, (4, 5), [(6, 7)]),
    "grouped": (
        "convolution", between(lambda b: nn.Conv(b, (3, 3), feature_group_count=2)),
        IMAGE, (4, 4), [(8, 8)]),
    "causal": (
        "convolution", lambda x, n: nn.Conv(n, (3,), kernel_dilation=2, padding="CAUSAL")(x),
        SEQUENCE, (4,), [(6,)]),
    "weight norm": (
        "perceptron", lambda x, a, b: nn.WeightNorm(nn.Dense(b))(nn.tanh(nn.Dense(a)(x))),
        FLAT, (4, 5), [(8, 10), (6, 5), (4, 7)]),
    "spectral norm": (
        "perceptron",
        lambda x, a, b: nn.SpectralNorm(nn.Dense(b))(nn.tanh(nn.Dense(a)(x)), update_stats=False),
        FLAT, (4, 5), [(8, 10), (8, 5)]),
    "spectral norm, then tanh": (
        "perceptron",
        lambda x, a, b: nn.tanh(
            nn.SpectralNorm(nn.Dense(b))(nn.tanh(nn.Dense(a)(x)), update_stats=False)
        ),
        FLAT, (4, 5), [(8, 5)]),
    "instance norm": (
        "convolution", lambda x, n: nn.relu(nn.InstanceNorm()(nn.Conv(n, (3, 3))(x))),
        IMAGE, (4,), [(6,)]),
    "attend": ("perceptron", attend, TOKENS, (4, 7), [(8, 7), (6, 7)]),
    "general": (
        "perceptron",
        lambda x, a, b: nn.DenseGeneral(3, axis=(-2, -1))(nn.tanh(nn.DenseGeneral((a, b))(x))),
        SEQUENCE, (2, 3), [(3, 5)]),
    "einsum": (
        "perceptron", lambda x, n: nn.gelu(nn.Einsum((4, n), "btd,da->bta")(x)),
        SEQUENCE, (4,), [(6,)]),
    "maxout": (
        "perceptron", lambda x, a, k: nn.Dense(a * k)(x).reshape(-1, a, k).max(-1),
        FLAT, (4, 3), [(6, 3), (4, 6)]),
    "glu": ("perceptron", lambda x, n: nn.glu(nn.Dense(n)(x)), FLAT, (8,), [(12,)]),
    "activations": ("perceptron", activations, FLAT, (4,), [(7,)]),
    "standardize": (
        "perceptron", lambda x, n: nn.standardize(nn.Dense(n)(x)), FLAT, (4,), [(8,), (7,)]),
    "pools": (
        "convolution",
        lambda x, n: nn.avg_pool(nn.max_pool(nn.Conv(n, (3, 3))(x), (2, 2)), (3, 3)),
        IMAGE, (4,), [(6,)]),
}  # fmt: skip
# W/σ has one spectral norm at every width: duplicated inputs make its output √2 larger.
GUESSED = {"standardize": ["(7,)"]}
REFUSED = {"spectral norm, then tanh": {"(8, 5)": "factors that differ by 1.414"}}


class WithHead(nn.Module):
    name_of: str
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        body = LAYERS[self.name_of][1]
        y = body(x, *self.sizes)
        return y if body is attend else nn.Dense(3)(y)


def add(name, family, body, x, small, wider):
    names = list(inspect.signature(body).parameters)[1:]
    sized = lambda sizes: dict(zip(names, sizes, strict=True))
    registry.add(
        "parts", family, f"linen, {name}",
        linen(lambda **sizes: WithHead(name, tuple(sizes.values())), (x,)),
        sized(small), {str(sizes): sized(sizes) for sizes in wider}, (x,),
        front_end="linen", refused=REFUSED.get(name), dtype=None,
        guessed=GUESSED.get(name, ()),
    )  # fmt: skip


for _name, _layer in LAYERS.items():
    add(_name, *_layer)
