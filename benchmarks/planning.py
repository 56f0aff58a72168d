"""Models whose growth is planned: like LLaMA, unrolled or in a loop, pre-norm or post-norm.

Width 2,048 → 4,096, heads 16 → 32, MLP 5,632 → 11,264 (10 billion parameters at 48 layers), length
8,192, batch 256. Shapes are enough, and nothing is allocated.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

EACH, VOCABULARY = 128, 32_000
TOKENS = jax.ShapeDtypeStruct((256, 8192), jnp.int32)
SMALL, BIG = (2048, 16, 5632), (4096, 32, 11264)


def norm(x: Any, scale: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def rotated(x: Any) -> Any:
    units = jnp.arange(EACH // 2, dtype=jnp.float32)
    angle = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] / 1e4 ** (units / (EACH // 2))
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(p: Any, y: Any) -> Any:
    q, k, v = (jnp.einsum("btd,dhe->bthe", y, p[name]) for name in ("q", "k", "v"))
    scores = jnp.einsum("bthe,bshe->bhts", rotated(q), rotated(k)) / EACH**0.5
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -1e9)
    return jnp.einsum("bhts,bshe,hed->btd", jax.nn.softmax(scores), v, p["o"])


def mlp(p: Any, y: Any) -> Any:
    return (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"]


def block(p: Any, x: Any) -> Any:
    x = x + attention(p, norm(x, p["norm 1"]))
    return x + mlp(p, norm(x, p["norm 2"]))


def post_norm(p: Any, x: Any) -> Any:
    x = norm(x + attention(p, x), p["norm 1"])
    return norm(x + mlp(p, x), p["norm 2"])


def unrolled(layer: Any) -> Any:
    def model(p: Any, tokens: Any) -> Any:
        x = p["embed"][tokens]
        for one in p["layers"]:
            x = layer(one, x)
        return x @ p["head"]

    return model


def looped(p: Any, tokens: Any) -> Any:
    step = lambda x, one: (block(one, x), None)
    return jax.lax.scan(step, p["embed"][tokens], p["layers"])[0] @ p["head"]


def shapes(sizes: tuple[int, int, int], layers: int, loop: bool = False) -> Any:
    """The shapes of the parameters; stacked over layers for a loop."""
    width, heads, inner = sizes
    s = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    row = lambda *shape: s(layers, *shape) if loop else s(*shape)
    layer = {
        **{name: row(width) for name in ("norm 1", "norm 2")},
        **{name: row(width, heads, EACH) for name in ("q", "k", "v")},
        **{name: row(width, inner) for name in ("gate", "up")},
        "o": row(heads, EACH, width), "down": row(inner, width),
    }  # fmt: skip
    rest = {"embed": s(VOCABULARY, width), "head": s(width, VOCABULARY)}
    return {**rest, "layers": layer if loop else [layer] * layers}
