"""Every model that the tests of growth know, once: what it is, which of its axes may grow, and how.

A file of models calls `add`; a test asks `models` by what it needs:

    zoo.models("zoo")                                     # a table of the golden plans
    zoo.models(family="attention", front_end="nnx")
    zoo.models(axis="hidden", exact=True)
    zoo.models(how="stack")                               # those that gain layers by copies
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tests.growth.zoo.building import as_dtype, randomised
from trainkit import growth
from trainkit.growth.operators import operator

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


COPIES = ("stack", "interpose", "middle", "last")  # new layers that are copies of old ones
HOWS = ("identity", *COPIES)


class Case(NamedTuple):
    """One growth of a model: to which of its variants, and by which operator of depth, if any."""

    variant: str
    how: str = "identity"


@dataclasses.dataclass(frozen=True)
class Model:
    """One architecture at all its sizes.

    A case is a variant, or where an operator is named for a size that it changes, a variant by that
    operator: "deeper, stack".

    Attributes:
      name: its name, which no other model has.
      table: the file of golden plans that holds it.
      family: one of `FAMILIES`.
      front_end: what it is written with, one of `FRONT_ENDS`.
      build: sizes -> (fn(params, *inputs), shapes of the parameters).
      base: the small model's sizes.
      grown: variant -> the sizes that change.
      inputs: what the function takes after its parameters.
      refused: case -> a word of the reason.
      how: a size -> the operators by which it may grow, for sizes that are numbers of layers, of
        groups, or of experts in the place of a layer. Other sizes grow as they are.
      guessed: cases whose gradient factors are a best guess, as the plan says.
      trainable: which leaves of new layers may be 0.
      dtype: of all parameters and inputs whose plans are recorded; `None`: as it is built.
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
    how: Mapping[str, Sequence[str]]
    guessed: Sequence[str]
    trainable: Callable[[str], bool]
    dtype: Any

    @property
    def axes(self) -> frozenset[str]:
        """The sizes that may grow."""
        return frozenset(axis for sizes in self.grown.values() for axis in sizes)

    @functools.cached_property
    def cases(self) -> dict[str, Case]:
        """Every growth by its name."""
        found = {}
        for variant, sizes in self.grown.items():
            hows = [how for size in sizes for how in self.how.get(size, ())]
            found |= {f"{variant}, {how}": Case(variant, how) for how in hows}
            found |= {} if hows else {variant: Case(variant)}
        return found

    @property
    def exact(self) -> list[str]:
        """The cases that keep the function."""
        kept = (name for name, case in self.cases.items() if operator(case.how).preserves)
        return [name for name in kept if name not in self.refused]

    def at(self, **sizes: Any) -> tuple[Callable, Any]:
        """The function and the shapes of its parameters, at the base sizes but for `sizes`."""
        return self.build(**{**self.base, **sizes})

    def big(self, case: str) -> tuple[Callable, Any]:
        """The function and the shapes that it has after a case."""
        return self.at(**self.grown[self.cases[case].variant])

    def params(self, seed: int = 0, dtype: Any = np.float64, **sizes: Any) -> Any:
        """Random parameters, none at 0 or 1."""
        return randomised(as_dtype(self.at(**sizes)[1], dtype), seed)

    def plan(self, case: str, *sides: Any, **options: Any) -> growth.Plan:
        """`growth.plan` of both functions, both trees of parameters and inputs, by the case."""
        how = self.cases[case].how
        return growth.plan(*sides, how=how, trainable=self.trainable, **options)


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
    how: Mapping[str, Sequence[str]] | None = None,
    guessed: Sequence[str] = (),
    trainable: Callable[[str], bool] = lambda path: True,
    dtype: Any = np.float64,
) -> None:
    """Adds a model; each name once, and only tags and cases that there are."""
    assert name not in REGISTRY, f"two models are called {name!r}"
    assert family in FAMILIES, f"{name!r}: there is no family {family!r}"
    assert front_end in FRONT_ENDS, f"{name!r}: there is no front end {front_end!r}"
    model = Model(
        name, table, family, front_end, build, base, grown, inputs, refused or {}, how or {},
        guessed,
        trainable, dtype,
    )  # fmt: skip
    assert model.refused.keys() <= model.cases.keys(), f"{name!r} refuses a case that it has not"
    assert set(guessed) <= set(model.exact), f"{name!r} guesses at a case that it has not"
    assert model.how.keys() <= model.axes, f"{name!r}: an operator for a size that does not grow"
    REGISTRY[name] = model


def models(
    table: str | None = None,
    *,
    family: str | None = None,
    front_end: str | None = None,
    axis: str | None = None,
    how: str | None = None,
    exact: bool | None = None,
) -> dict[str, Model]:
    """Name -> model, of those with all the tags that are given.

    Args:
      table: the file of golden plans.
      family: one of `FAMILIES`.
      front_end: one of `FRONT_ENDS`.
      axis: a size that may grow.
      how: an operator by which a size of it may grow.
      exact: whether it has a case that is exact (True), or one that is refused (False).
    """
    return {
        name: model
        for name, model in REGISTRY.items()
        if table in (None, model.table)
        and family in (None, model.family)
        and front_end in (None, model.front_end)
        and (axis is None or axis in model.axes)
        and (how is None or any(how in hows for hows in model.how.values()))
        and (exact is None or bool(model.exact if exact else model.refused))
    }
