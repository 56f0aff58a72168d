"""A plan to be recorded is a function that makes it; those of one model are variants."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np

from tests.growth import zoo
from tests.growth.zoo.building import as_dtype
from trainkit import growth

Case = Callable[[], growth.Plan]
Table = Mapping[str, Mapping[str, Case]]


def of_model(model: zoo.Model) -> dict[str, Case]:
    """The plans of one model, from shapes alone."""
    small = functools.cache(model.at)

    def planned(case):
        (small_fn, before), (big_fn, after) = small(), model.big(case)
        sides = before, after, *map(_shape, model.inputs)
        typed = sides if model.dtype is None else as_dtype(sides, model.dtype)
        return model.plan(case, small_fn, big_fn, *typed)

    return {name: functools.partial(planned, name) for name in model.cases}


def _shape(x: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def of_models(table: str) -> Table:
    return {name: of_model(model) for name, model in zoo.models(table).items()}
