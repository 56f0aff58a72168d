"""Published architectures, written as their authors or typical users of JAX write them, in small.

Every size that may grow is tried at twice, three times and one and a half times, alone and together
with all others."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from tests.growth.zoo import registry
from tests.growth.zoo.building import SEQUENCE, functions, standard

gelu, silu, softmax, relu = jax.nn.gelu, jax.nn.silu, jax.nn.softmax, jax.nn.relu
sigmoid, softplus = jax.nn.sigmoid, jax.nn.softplus


def variants(base: dict[str, int], axes: str) -> dict[str, dict[str, int]]:
    """Every axis and all of them together, at each factor."""
    names, found = axes.split(), {}
    for factor in (2, 3, 1.5):
        sizes = {n: math.ceil(base[n] * factor) for n in names}
        found |= {f"{n} x{factor}": {n: sizes[n]} for n in names}
        if len(names) > 1:
            found[f"all x{factor}"] = sizes
    return found


def keep(family, name, build, base, axes, inputs, refused=(), front_end="linen") -> None:
    """Adds a model of any front end at all its variants; `refused` names those to be refused."""
    grown = variants(base, axes)
    # A stream behind a LayerNorm may grow to no multiple.
    guessed = [case for case in grown if "x1.5" in case and case not in refused]
    registry.add(
        "published", family, name, build, base, grown, inputs, front_end=front_end,
        refused=dict.fromkeys(refused, ""), guessed=guessed,
    )  # fmt: skip


def model(family, name, shapes, base, axes, inputs=SEQUENCE, refused=()):
    """Adds `fn(params, sizes, *inputs)`; promotion of dtypes is JAX's own default."""

    def decorate(fn):
        build = functions(standard(fn), shapes)
        keep(family, name, build, base, axes, inputs, refused, front_end="functions")
        return fn

    return decorate


def attend(q, k, v, bias=0.0):
    """[b, t, h, e] by softmax."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]) + bias
    return jnp.einsum("bhqk,bkhd->bqhd", softmax(scores), v)
