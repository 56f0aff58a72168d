"""A plan to be recorded is a function that makes it; those of one model are variants."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from tests.growth import zoo
from tests.growth.zoo.building import as_dtype
from trainkit import growth

Case = Callable[[], growth.Plan]
Table = Mapping[str, Mapping[str, Case]]


def variants(model: zoo.Model) -> dict[str, Case]:
    """The plans of one model, from shapes alone, in float64."""

    def build(**sizes):
        fn, shapes = model.at(**sizes)
        return fn, as_dtype(shapes, np.float64)

    small = functools.cache(build)

    def planned(sizes):
        (small_fn, before), (big_fn, after) = small(), build(**sizes)
        return growth.plan(small_fn, big_fn, before, after, *map(_float64, model.inputs))

    return {name: functools.partial(planned, sizes) for name, sizes in model.grown.items()}


def _float64(x: np.ndarray) -> jax.ShapeDtypeStruct:
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return jax.ShapeDtypeStruct(x.shape, np.float64 if floating else x.dtype)


def of_models(table: str) -> Table:
    return {name: variants(model) for name, model in zoo.models(table).items()}
