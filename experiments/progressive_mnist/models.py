"""The networks that grow: plain, so that every stage keeps the function exactly."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.mnist.models import halved


class MLP(nn.Module):
    """Dense layers with ReLU between them: images (n, 28, 28, 1) to logits (n, 10)."""

    hidden: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        for number, width in enumerate(self.hidden):
            x = nn.relu(nn.Dense(width, name=f"hidden_{number}")(x))
        return nn.Dense(10, name="logits")(x)


class CNN(nn.Module):
    """Two 3 × 3 convolutions, each pooled, then a dense layer: images to logits."""

    channels: Sequence[int]
    dense: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, channels in enumerate(self.channels):
            x = halved(nn.relu(nn.Conv(channels, (3, 3), name=f"conv_{number}")(x)))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(self.dense, name="dense")(x))
        return nn.Dense(10, name="logits")(x)
