"""The two directions for slots of an optimizer state: expand (grow) and contract (the inverse)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.algebra import (
    New,
    column_sums,
    expand,
    fold,
    grown_shape,
    norm_factor,
    row_sums,
)
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.slots import Slot
from trainkit.growth.plan.data import Origin

Shape = tuple[int, ...]


def mean_of_all(values: Mapping[str, jax.Array], spec: Any) -> jax.Array:
    """The second moment of a leaf that no old one is like, of the shape and dtype of `spec`.

    0 with an old count would make its first updates far too large.
    """
    means = [jnp.mean(x) for x in values.values() if x.size]
    return jnp.full(spec.shape, sum(means) / max(len(means), 1), spec.dtype)


class Direction:
    """From the leaves of one model to those of another. Leaf names are those of the target model.

    Attributes:
      growth: the map from the small to the big model.
      shapes: leaf name in the small model -> its shape.
    """

    def __init__(self, growth: MapData, shapes: Mapping[str, Shape]):
        self.growth, self.shapes = growth, shapes

    def source(self, leaf: str) -> Origin:
        """The origin of a leaf."""
        raise NotImplementedError

    def how(self, leaf: str) -> LeafMap | None:
        """The map of a leaf from small to big, in either direction; `None` if it does not grow."""
        raise NotImplementedError

    def before(self, leaf: str) -> Shape:
        """The shape of a leaf's origin."""
        raise NotImplementedError

    def after(self, leaf: str) -> Shape:
        """The shape of a leaf."""
        raise NotImplementedError

    def linear(
        self,
        x: jax.Array,
        how: LeafMap,
        after: Shape,
        *,
        weight: float = 0.0,
        gradient: float = 0.0,
        new: New = "zero",
        lead: int = 0,
        what: str = "leaf",
    ) -> jax.Array:
        """Expands or contracts a value of degree `weight` in weights and `gradient` in gradients.

        The result has the shape `after`. See `expand` and `fold`.
        """
        raise NotImplementedError

    def shares(self, along: AxisMap | None, before: int, after: int, gradient: float) -> np.ndarray:
        """s with mean(`linear(x)`) = Σ s·x along one axis, for new="mean"."""
        raise NotImplementedError

    def norms(self, leaf: str, slot: Slot) -> float:
        """The factor on a slot from norms of the whole leaf."""
        how = self.how(leaf)
        if how is None or not (slot.norm_weight or slot.norm_gradient or slot.entries):
            return 1.0
        shape = self.small(leaf)
        more = [len(a.source) / n for a, n in zip(how.axes, shape, strict=True) if a and n]
        return (
            norm_factor(how, shape, "weight") ** slot.norm_weight
            * norm_factor(how, shape, "gradient") ** slot.norm_gradient
            * math.prod(more) ** (slot.entries / 2)
        )

    def small(self, leaf: str) -> Shape:
        """The shape of the leaf in the small model."""
        raise NotImplementedError

    def check(self, leaf: str, x: jax.Array, here: str, lead: int = 0) -> None:
        """Raises a `GrowthError` if a slot does not have the shape of its parameter."""
        if x.shape[lead:] != self.before(leaf):
            raise GrowthError(
                f"{here} has shape {x.shape[lead:]}, and its parameter has {self.before(leaf)}",
                params=[leaf],
                hint="pass the state of these parameters",
            )

    def inside(self, leaves: Mapping[str, LeafMap], shapes: Mapping[str, Shape]) -> Direction:
        """The same direction, with other maps and shapes for the leaves."""
        return type(self)(dataclasses.replace(self.growth, leaves=leaves), shapes)


class Expand(Direction):
    """From the small model to the big one."""

    def source(self, leaf: str) -> Origin:
        return self.growth.origin_of(leaf)

    def how(self, leaf: str) -> LeafMap | None:
        return self.growth.leaves.get(leaf)

    def small(self, leaf: str) -> Shape:
        return self.shapes[self.source(leaf).leaf or leaf]

    before = small

    def after(self, leaf: str) -> Shape:
        how = self.how(leaf)
        return self.small(leaf) if how is None else grown_shape(self.small(leaf), how)

    def linear(self, x, how, after, *, weight=0.0, gradient=0.0, new="zero", lead=0, what="leaf"):
        del after
        return expand(x, how, weight=weight, gradient=gradient, new=new, lead=lead, what=what)

    def shares(self, along, before, after, gradient):
        return column_sums(along, before, gradient=gradient, new="mean") / after


class Contract(Direction):
    """From the big model back to the small one; the inverse of `Expand`."""

    def __init__(self, growth: MapData, shapes: Mapping[str, Shape]):
        super().__init__(growth, shapes)
        origins = growth.origin.items()
        came = {origin.leaf: leaf for leaf, origin in origins if not origin.new}
        self._back = {leaf: came.get(leaf, leaf) for leaf in shapes}

    def source(self, leaf: str) -> Origin:
        return Origin(self._back[leaf])

    def how(self, leaf: str) -> LeafMap | None:
        return self.growth.leaves.get(self._back[leaf])

    def small(self, leaf: str) -> Shape:
        return self.shapes[leaf]

    after = small

    def before(self, leaf: str) -> Shape:
        how = self.how(leaf)
        return self.small(leaf) if how is None else grown_shape(self.small(leaf), how)

    def linear(self, x, how, after, *, weight=0.0, gradient=0.0, new="zero", lead=0, what="leaf"):
        del new
        return fold(x, how, after, weight=weight, gradient=gradient, lead=lead, what=what)

    def shares(self, along, before, after, gradient):
        del before
        return row_sums(along, after, gradient=gradient) / after

    def norms(self, leaf: str, slot: Slot) -> float:
        return 1.0 / super().norms(leaf, slot)


def owner(name: str, leaves: Mapping[str, Any], where: str) -> str:
    """The parameter of an entry of a slot. One parameter may have several: "w/0", "w/real".

    Raises:
      GrowthError: the tree of the slot is not that of the parameters.
    """
    leaf = name
    while leaf not in leaves:
        if "/" not in leaf:
            if "" in leaves:
                return ""
            raise GrowthError(
                f"{where}: {name!r} is not a leaf of the parameters "
                f"({', '.join(list(leaves)[:4])}, …). The slot does not have the tree of the "
                "parameters; describe its state class with slots=…"
            )
        leaf = leaf.rpartition("/")[0]
    return leaf
