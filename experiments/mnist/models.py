"""The two networks: images (n, 28, 28, 1) of float32 to logits (n, 10)."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax


class MLP(nn.Module):
    """Dense layers with ReLU and dropout between them."""

    hidden: Sequence[int] = (512, 512)
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(10)(x)


class CNN(nn.Module):
    """Two 3 × 3 convolutions of 32 and 64 channels, each pooled, then a dense layer of 128."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for channels in (32, 64):
            x = nn.relu(nn.Conv(channels, (3, 3))(x))
            x = nn.Dropout(0.25, deterministic=not train)(halved(x))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(128)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(10)(x)


def halved(x: jax.Array) -> jax.Array:
    """2 × 2 max-pooling of images whose sides are even.

    The same values as `nn.max_pool(x, (2, 2), strides=(2, 2))`, whose gradient XLA computes with
    a scatter: on a CPU it is a third of the step.
    """
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
