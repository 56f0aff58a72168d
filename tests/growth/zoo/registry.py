"""Every model that the tests of growth know, once: what it is, which of its axes may grow, and how.

A file of models calls `add`; a test asks `models` by what it needs:

    zoo.models("zoo")                                     # a table of the golden plans
    zoo.models(family="attention", front_end="nnx")
    zoo.models(axis="hidden", exact=True)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

FAMILIES = {
    "perceptron": "dense layers one after another, with gates, factors or dictionaries",
    "convolution": "images, and sequences by convolutions",
    "attention": "softmax or linear attention, and transformers around it",
    "recurrent": "cells and state spaces, unrolled, scanned or by a parallel scan",
    "mixture": "experts and what chooses them",
    "relation": "graphs, sets, pairs of towers, adversaries",
    "field": "functions of coordinates, densities, physics",
    "implicit": "loops, solvers and branches inside a layer",
    "operation": "one operation of which growth must know all, between two matrices",
}
FRONT_ENDS = ("linen", "nnx", "equinox", "haiku", "functions")


@dataclasses.dataclass(frozen=True)
class Model:
    """One architecture at all its sizes.

    Attributes:
      name: its name, which no other model has.
      table: the file of golden plans that holds it.
      family: one of `FAMILIES`.
      front_end: what it is written with, one of `FRONT_ENDS`.
      build: sizes -> (fn(params, *inputs), shapes of the parameters).
      base: the small model's sizes.
      grown: variant -> the sizes that change. All but those that are refused are exact.
      inputs: what the function takes after its parameters.
      refused: variant -> a word of the reason.
    """

    name: str
    table: str
    family: str
    front_end: str
    build: Callable[..., tuple[Callable, Any]]
    base: Mapping[str, Any]
    grown: Mapping[str, Mapping[str, Any]]
    inputs: tuple
    refused: Mapping[str, str]

    @property
    def axes(self) -> frozenset[str]:
        """The sizes that may grow."""
        return frozenset(axis for sizes in self.grown.values() for axis in sizes)

    @property
    def exact(self) -> list[str]:
        """The variants that keep the function."""
        return [variant for variant in self.grown if variant not in self.refused]

    def at(self, **sizes: Any) -> tuple[Callable, Any]:
        """The function and the shapes of its parameters, at the base sizes but for `sizes`."""
        return self.build(**{**self.base, **sizes})

    def sides(self, variant: str) -> tuple[tuple[Callable, Any], tuple[Callable, Any]]:
        """The small model and one that has grown."""
        return self.at(), self.at(**self.grown[variant])


REGISTRY: dict[str, Model] = {}


def add(
    table: str,
    family: str,
    name: str,
    build: Callable[..., tuple[Callable, Any]],
    base: Mapping[str, Any],
    grown: Mapping[str, Mapping[str, Any]],
    inputs: tuple,
    *,
    front_end: str = "functions",
    refused: Mapping[str, str] | None = None,
) -> None:
    """Adds a model; each name once, and only tags and variants that there are."""
    refused = refused or {}
    assert name not in REGISTRY, f"two models are called {name!r}"
    assert family in FAMILIES, f"{name!r}: there is no family {family!r}"
    assert front_end in FRONT_ENDS, f"{name!r}: there is no front end {front_end!r}"
    assert refused.keys() <= grown.keys(), f"{name!r} refuses a variant that it has not"
    REGISTRY[name] = Model(name, table, family, front_end, build, base, grown, inputs, refused)


def models(
    table: str | None = None,
    *,
    family: str | None = None,
    front_end: str | None = None,
    axis: str | None = None,
    exact: bool | None = None,
) -> dict[str, Model]:
    """Name -> model, of those with all the tags that are given.

    Args:
      table: the file of golden plans.
      family: one of `FAMILIES`.
      front_end: one of `FRONT_ENDS`.
      axis: a size that may grow.
      exact: whether it has a variant that is exact (True), or one that is refused (False).
    """
    return {
        name: model
        for name, model in REGISTRY.items()
        if table in (None, model.table)
        and family in (None, model.family)
        and front_end in (None, model.front_end)
        and (axis is None or axis in model.axes)
        and (exact is None or bool(model.exact if exact else model.refused))
    }
