"""What large code bases have beside the arithmetic: named checkpoints, shardings, looks inside,
solutions of linear systems."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tests.growth.zoo.building import FLAT, TOKENS
from tests.growth.zoo.published.making import model


@model(
    "perceptron", "instrumented",
    lambda d, e: {"in": (7, d), "w": (d, e), "out": (e, 2)},
    {"d": 4, "e": 5}, "d e", inputs=FLAT,
)  # fmt: skip
def _(p, s, x):
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    names = jax.checkpoint_policies.save_only_these_names("hidden")

    @functools.partial(jax.checkpoint, policy=names)
    def block(x):
        h = checkpoint_name(jnp.tanh(x @ p["in"]), "hidden")
        sharding = jax.NamedSharding(mesh, jax.P(None, "x"))
        return jax.lax.with_sharding_constraint(h, sharding)

    h = block(x)
    jax.debug.callback(lambda h: None, h)
    return jax.lax.optimization_barrier(jnp.tanh(h @ p["w"])) @ p["out"]


@model(
    "implicit", "solved",
    lambda d, e: {"in": (7, d), "a": (d, 3, 3), "m": (5, 5), "w": (d * 3, e), "out": (e, 2)},
    {"d": 4, "e": 3}, "d e", inputs=FLAT,
)  # fmt: skip
def _(p, s, x):
    """A system for each channel, a Cholesky factor of each, and one system for all channels."""
    positive = lambda a: a @ jnp.swapaxes(a, -1, -2) + jnp.eye(a.shape[-1])
    h = jnp.tanh(x @ p["in"])
    y = jnp.linalg.solve(positive(p["a"])[None], h[..., None, None] * jnp.ones((1, 1, 3, 1)))
    y = jnp.einsum("dij,bdj->bdi", jnp.linalg.cholesky(positive(p["a"])), y[..., 0])
    y = jnp.tanh(y.reshape(x.shape[0], -1) @ p["w"])
    return jnp.linalg.solve(positive(p["m"]), y) @ p["out"]


_EVERY = ("v x2", "all x2", "v x3", "all x3", "v x1.5", "all x1.5")


@model(
    "operation", "clipped indices",
    lambda v, d: {"table": (v, d), "w": (d, 3), "out": (3, 2)},
    {"v": 5, "d": 4}, "v d", inputs=TOKENS, refused=_EVERY,
)  # fmt: skip
def _(p, s, tokens):
    """What lies beyond the table is its last row, which is another one in a larger table."""
    return jnp.tanh(jnp.take(p["table"], tokens, 0, mode="clip") @ p["w"]) @ p["out"]


@model(
    "operation", "padding last",
    lambda v, d: {"table": (v, d), "w": (d, 3), "out": (3, 2)},
    {"v": 11, "d": 4}, "v d", inputs=TOKENS, refused=_EVERY,
)  # fmt: skip
def _(p, s, tokens):
    """The last token pads: which one that is depends on the size of the vocabulary."""
    x = p["table"][tokens] * (tokens != s["v"] - 1)[..., None]
    return jnp.tanh(x @ p["w"]) @ p["out"]
