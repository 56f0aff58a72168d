"""Mixtures of experts as people write them: every way of choosing, of combining and of dispatching.

`experts` and `k` grow together by the same factor, `hidden` and `width` as in any model.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.growth.zoo import registry
from tests.growth.zoo.building import draw, functions, linen

TOKENS = (draw(5, 6, 5),)
gelu, softmax, one_hot = jax.nn.gelu, jax.nn.softmax, jax.nn.one_hot


def shapes(width=4, hidden=5, experts=3, **_):
    return {
        "in": (5, width), "in_b": (width,), "router": (width, experts), "shift": (experts,),
        "up": (experts, width, hidden), "up_b": (experts, hidden),
        "down": (experts, hidden, width), "down_b": (experts, width), "out": (width, 2),
    }  # fmt: skip


def model(name, more=lambda **sizes: {}, grown=(), **base):
    """Adds `fn(params, sizes, x)`, a layer between two matrices."""
    base = {"width": 4, "hidden": 5, "experts": 3, "k": 2, **base}
    k = {"k": 2 * base["k"]} if base["k"] else {}
    variants = {
        "experts": {"experts": 2 * base["experts"], **k},
        "all": {"experts": 2 * base["experts"], "width": 8, "hidden": 7, **k},
        **dict(grown),
    }

    def add(layer):
        def fn(p, s, x):
            x = x @ p["in"] + p["in_b"]
            return (x + layer(p, s, x)) @ p["out"]

        build = functions(fn, lambda **sizes: shapes(**sizes) | more(**sizes))
        registry.add("mixtures", "mixture", name, build, base, variants, TOKENS)
        return layer

    return add


def logits(p, x):
    return x @ p["router"] + p["shift"]


def each(p, x):
    """What every expert makes of every token: [token, expert, width]."""
    h = gelu(jnp.einsum("td,edf->tef", x, p["up"]) + p["up_b"])
    return jnp.einsum("tef,efd->ted", h, p["down"]) + p["down_b"]


def in_slots(p, slots):
    """What the experts make of the tokens in their slots: [expert, slot, width]."""
    h = gelu(jnp.einsum("ecd,edf->ecf", slots, p["up"]) + p["up_b"][:, None])
    return jnp.einsum("ecf,efd->ecd", h, p["down"]) + p["down_b"][:, None]


def picked(p, x, which):
    """What the chosen experts make of each token, by their own weights: [token, chosen, width]."""
    h = gelu(jnp.einsum("td,tkdf->tkf", x, p["up"][which]) + p["up_b"][which])
    return jnp.einsum("tkf,tkfd->tkd", h, p["down"][which]) + p["down_b"][which]


@model("softmax over the chosen, one_hot")
def _(p, s, x):
    top, which = jax.lax.top_k(logits(p, x), s["k"])
    gates = jnp.einsum("tk,tke->te", softmax(top), one_hot(which, s["experts"], dtype=x.dtype))
    return jnp.einsum("ted,te->td", each(p, x), gates)


@model("top-1, one_hot summed", k=1, grown={"threefold": {"experts": 9, "k": 3}})
def _(p, s, x):
    gates, which = jax.lax.top_k(softmax(logits(p, x)), s["k"])
    chosen = one_hot(which, s["experts"], dtype=x.dtype)
    return jnp.sum(each(p, x) * jnp.sum(gates[..., None] * chosen, axis=1)[..., None], axis=1)


@model("softmax, top_k, renormalised; weights gathered")
def _(p, s, x):
    gates, which = jax.lax.top_k(softmax(logits(p, x)), s["k"])
    gates = gates / gates.sum(-1, keepdims=True)
    return jnp.sum(picked(p, x, which) * gates[..., None], axis=1)


@model("gates by take_along_axis, outputs too")
def _(p, s, x):
    scores = logits(p, x)
    _, which = jax.lax.top_k(scores, s["k"])
    gates = softmax(jnp.take_along_axis(scores, which, axis=-1))
    ys = jnp.take_along_axis(each(p, x), which[..., None], axis=1)
    return jnp.einsum("tkd,tk->td", ys, gates)


@model("gates scattered at pairs of indices")
def _(p, s, x):
    top, which = jax.lax.top_k(logits(p, x), s["k"])
    rows = jnp.arange(x.shape[0])[:, None]
    gates = jnp.zeros((x.shape[0], s["experts"]), x.dtype).at[rows, which].set(softmax(top))
    return jnp.einsum("ted,te->td", each(p, x), gates)


@model("gates scattered under vmap")
def _(p, s, x):
    top, which = jax.lax.top_k(logits(p, x), s["k"])
    put = jax.vmap(lambda i, g: jnp.zeros(s["experts"], x.dtype).at[i].add(g))
    return jnp.einsum("ted,te->td", each(p, x), put(which, jax.nn.sigmoid(top)))


@model("mask of what reaches the k-th")
def _(p, s, x):
    scores = logits(p, x)
    least = jax.lax.top_k(scores, s["k"])[0][..., -1:]
    gates = softmax(jnp.where(scores >= least, scores, -jnp.inf))
    return jnp.einsum("ted,te->td", each(p, x), gates)


@model("mask from one_hot, then softmax")
def _(p, s, x):
    scores = logits(p, x)
    _, which = jax.lax.top_k(scores, s["k"])
    chosen = (which[..., None] == jnp.arange(s["experts"], dtype=which.dtype)).any(axis=1)
    gates = softmax(jnp.where(chosen, scores, -1e30))
    return jnp.einsum("ted,te->td", each(p, x), gates)


def with_shared(width=4, hidden=5, experts=3, **_):
    return {"bias": (experts,), "wi": (width, hidden), "wo": (hidden, width)}


@model("shared expert, sigmoid gates, a bias that only chooses", more=with_shared)
def _(p, s, x):
    scores = jax.nn.sigmoid(logits(p, x))
    _, which = jax.lax.top_k(scores + p["bias"], s["k"])
    gates = jnp.take_along_axis(scores, which, axis=-1)
    gates = 2.5 * gates / (gates.sum(-1, keepdims=True) + 1e-20)
    routed = jnp.sum(picked(p, x, which) * gates[..., None], axis=1)
    return routed + gelu(x @ p["wi"]) @ p["wo"]


@model("sigmoid gates as they are")
def _(p, s, x):
    gates, which = jax.lax.top_k(jax.nn.sigmoid(logits(p, x)), s["k"])
    return jnp.einsum("tkd,tk->td", picked(p, x, which), gates)


def capacity_of(s, tokens):
    return max(2, tokens * s["k"] // s["experts"])


@model("capacity, token by token", k=1)
def _(p, s, x):
    t, e = x.shape[0], s["experts"]
    c = capacity_of(s, t)
    gates, which = jax.lax.top_k(softmax(logits(p, x)), s["k"])
    mask = one_hot(which, e, dtype=jnp.int32).reshape(t * s["k"], e)
    place = jnp.cumsum(mask, axis=0) * mask - 1
    kept = mask * (place < c).astype(mask.dtype)
    slots = (kept[..., None] * one_hot(place, c, dtype=jnp.int32)).reshape(t, s["k"], e, c)
    slots = slots.astype(x.dtype)
    inside = jnp.einsum("tkec,td->ecd", slots, x)
    combine = jnp.einsum("tk,tkec->tec", gates, slots)
    return jnp.einsum("ecd,tec->td", in_slots(p, inside), combine)


@model("capacity, first choices first")
def _(p, s, x):
    t, e, k = x.shape[0], s["experts"], s["k"]
    c = capacity_of(s, t)
    gates, which = jax.lax.top_k(softmax(logits(p, x)), k)
    gates = gates / gates.sum(-1, keepdims=True)
    mask = one_hot(which.T.reshape(-1), e, dtype=x.dtype)  # [chosen, token]
    place = jnp.cumsum(mask, axis=0) - mask
    kept = mask * (place < c).astype(x.dtype)
    at = jnp.sum(place * kept, axis=-1).astype(jnp.int32)
    held = jnp.sum(kept, axis=-1)
    slots = kept[:, :, None] * one_hot(at, c, dtype=x.dtype)[:, None] * held[:, None, None]
    slots = slots.reshape(k, t, e, c)
    inside = jnp.einsum("ktec,td->ecd", slots, x)
    combine = jnp.einsum("kt,ktec->tec", gates.T, slots)
    return jnp.einsum("ecd,tec->td", in_slots(p, inside), combine)


@model("experts choose their tokens", k=0)
def _(p, s, x):
    affinity = softmax(logits(p, x))
    gates, tokens = jax.lax.top_k(affinity.T, 3)
    back = one_hot(tokens, x.shape[0], dtype=x.dtype)
    y = in_slots(p, x[tokens]) * gates[..., None]
    return jnp.einsum("ecd,ect->td", y, back)


@model("experts choose their tokens, scattered back", k=0)
def _(p, s, x):
    gates, tokens = jax.lax.top_k(softmax(logits(p, x)).T, 3)
    y = in_slots(p, x[tokens]) * gates[..., None]
    return jnp.zeros_like(x).at[tokens].add(y)


def soft_shapes(width=4, experts=3, **_):
    return {"phi": (width, experts, 2)}


@model("soft mixture", more=soft_shapes, k=0)
def _(p, s, x):
    scores = jnp.einsum("td,dec->tec", x, p["phi"])
    dispatch = softmax(scores, axis=0)
    combine = softmax(scores.reshape(x.shape[0], -1)).reshape(scores.shape)
    y = in_slots(p, jnp.einsum("td,tec->ecd", x, dispatch))
    return jnp.einsum("ecd,tec->td", y, combine)


class Expert(nn.Module):
    width: int
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        h = nn.silu(nn.Dense(self.hidden, param_dtype=self.dtype, name="Dense_1")(x))
        return nn.Dense(self.width, param_dtype=self.dtype, name="Dense_0")(h)


class Mixture(nn.Module):
    """A pre-norm block with a mixture, the experts' weights made by `nn.vmap`."""

    width: int = 4
    hidden: int = 5
    experts: int = 3
    k: int = 2
    dtype: Any = jnp.float32
    over_all: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, param_dtype=self.dtype)(x)
        y = nn.LayerNorm(param_dtype=self.dtype)(x)
        scores = nn.Dense(self.experts, use_bias=False, param_dtype=self.dtype, name="router")(y)
        if self.over_all:
            gates, which = jax.lax.top_k(nn.softmax(scores), self.k)
        else:
            top, which = jax.lax.top_k(scores, self.k)
            gates = nn.softmax(top)
        chosen = one_hot(which, self.experts, dtype=x.dtype)
        gates = jnp.sum(gates[..., None] * chosen, axis=-2)
        layer = nn.vmap(
            Expert, variable_axes={"params": 0}, split_rngs={"params": True},
            in_axes=None, out_axes=1, axis_size=self.experts,
        )(self.width, self.hidden, self.dtype, name="VmapFeedForward_0")  # fmt: skip
        x = x + jnp.einsum("ted,te->td", layer(y), gates)
        y = nn.LayerNorm(param_dtype=self.dtype)(x)
        return nn.Dense(2, param_dtype=self.dtype)(y)


registry.add(
    "mixtures",
    "mixture",
    "linen",
    linen(Mixture, TOKENS),
    {},
    {
        "experts": {"experts": 6, "k": 4},
        "all": {"experts": 6, "k": 4, "width": 8, "hidden": 7},
    },
    TOKENS,
    front_end="linen",
)
