"""A character transformer: pre-norm, RMSNorm, rotary positions, SwiGLU, no biases.

Its head size is fixed and its heads grow with the width, so that the rotary frequencies stay what
they were and every width growth by a whole factor keeps the function.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class Transformer(nn.Module):
    """Characters [B, T] (int32) -> logits [B, T, vocabulary]."""

    vocabulary: int
    width: int
    depth: int
    head_size: int = 16
    shared: bool = False  # one block, through which the stream passes `depth` times

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(self.vocabulary, self.width, name="embed")(tokens)
        core = Block(self.width, self.head_size, name="core") if self.shared else None
        for layer in range(self.depth):
            block = core or Block(self.width, self.head_size, name=f"block_{layer}")
            x = block(x)
        x = nn.RMSNorm(epsilon=1e-6, name="norm")(x)
        return nn.Dense(self.vocabulary, use_bias=False, name="logits")(x)


class Block(nn.Module):
    """Attention and a gated MLP, each added to the residual stream."""

    width: int
    head_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + Attention(self.width, self.head_size, name="attention")(
            nn.RMSNorm(epsilon=1e-6, name="norm_attention")(x)
        )
        h = nn.RMSNorm(epsilon=1e-6, name="norm_mlp")(x)
        # Near the 8/3 that gives a gated MLP the parameters of a plain one, and whole at any width.
        hidden = 3 * self.width
        gate = nn.Dense(hidden, use_bias=False, name="gate")(h)
        up = nn.Dense(hidden, use_bias=False, name="up")(h)
        return x + nn.Dense(self.width, use_bias=False, name="down")(nn.silu(gate) * up)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    width: int
    head_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        heads = self.width // self.head_size

        def project(name):
            return nn.DenseGeneral((heads, self.head_size), use_bias=False, name=name)(x)

        q, k, v = rotate(project("query")), rotate(project("key")), project("value")
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / self.head_size**0.5
        length = x.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))
        weights = nn.softmax(jnp.where(causal, scores, jnp.finfo(scores.dtype).min))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return nn.DenseGeneral(self.width, axis=(-2, -1), use_bias=False, name="out")(mixed)


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions on [B, T, heads, head_size] (Su et al., 2021, RoFormer), base 10,000."""
    length, size = x.shape[1], x.shape[-1]
    frequencies = 10_000.0 ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angles = (jnp.arange(length, dtype=jnp.float32)[:, None] * frequencies).astype(x.dtype)
    cos, sin = jnp.cos(angles)[:, None, :], jnp.sin(angles)[:, None, :]
    even, odd = x[..., : size // 2], x[..., size // 2 :]
    return jnp.concatenate([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
