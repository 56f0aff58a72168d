"""A plan: static, hashable data that say how every leaf grows. They know no interpreter."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

Structure = tuple[Any, ...]
How = Literal["uneven", "noise", "zero_out", "even", "rms"]
Proof = Literal["proved", "reduced", "measured", "assumed"]


@dataclasses.dataclass(frozen=True)
class GrownAxis:
    """One independent axis that grows, shared by all the parameter axes that are coupled.

    Attributes:
      small, big: its size before and after.
      layout: "repeat" (copies of a unit side by side), "tile" (the whole axis again and again),
        "stride" (old unit i at place i·big/small, nothing between), "append" (new units that copy
        nothing at the end), "row mean" (the same, and writers may write the mean of the old units
        into them, which a LayerNorm takes away) or "centre" (a kernel's old taps in the middle).
      clean: whether whatever reads it is a parameter that may be split, so that an uneven split
        has an exact gradient and its copies may hold anything while they are read with 0.
      visible: whether results have it: their old entries lead and are exact.
      fill: what new units that copy none hold where they may hold anything: "random" values, or the
        "mean" of the old ones where nothing is read along it (a vocabulary).
      paired: whether two activations are contracted over it, as queries with keys.
    """

    small: int
    big: int
    layout: str
    clean: bool
    paired: bool = False
    visible: bool = False
    fill: str = "random"


@dataclasses.dataclass(frozen=True)
class Layer:
    """Where a leaf of a deeper model comes from.

    Attributes:
      source: the leaf of the small model that it is, or copies; `None` for none.
      new: whether it belongs to a layer that the small model does not have.
      becomes: what the new layer holds: "copy" of its source, "zero", "eye" (an identity matrix or
        Dirac kernel), "one", or "random" values.
      axis: of leaves that are stacked over layers, the axis of the layers.
      rows: for each of these layers, which old one it is or copies, and whether it is new.
    """

    source: str | None
    new: bool = False
    becomes: Literal["copy", "zero", "eye", "one", "random"] = "copy"
    axis: int = 0
    rows: tuple[tuple[int, bool], ...] = ()


@dataclasses.dataclass(frozen=True)
class AxisPlan:
    """How one axis of one parameter grows.

    It may be made of several grown axes: heads × head_dim merged, or a concatenation. It then has
    segments, and numbers below are those of `GrownAxis` in the plan's `grown_axes`.

    Attributes:
      structure: what it is made of, nested tuples of `("leaf", number)`, `("fixed", size)`,
        `("prod", …)` and `("sum", …)`.
      segments: one factor a segment on the weight of an even growth; `()` where all are 1.
      splits: for each segment the numbers that this parameter reads, and over whose copies it may
        be split unevenly.
      reads: the numbers that this parameter is contracted over itself: its inputs.
      tied: those of them along which it also makes units, as an embedding does that is the
        output's weight too.
      fresh: the numbers in whose new units, those that copy none, this parameter may hold
        anything; in all others it is 0, but for
      means: those in whose new units it holds the mean over the old ones.
      ordered: the numbers along whose copies it must stay equal to the last digit, since something
        (`top_k`) orders what it makes of them.
    """

    structure: Structure
    segments: tuple[float, ...] = ()
    splits: tuple[tuple[int, ...], ...] = ()
    reads: tuple[int, ...] = ()
    tied: tuple[int, ...] = ()
    fresh: tuple[int, ...] = ()
    means: tuple[int, ...] = ()
    ordered: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class LeafPlan:
    """How one parameter grows.

    Attributes:
      path: its keys joined by "/", as in "params/Dense_0/kernel".
      small, big: shapes before and after.
      dtype: its dtype.
      axes: for each axis an `AxisPlan`, or `None` where it does not grow.
      weight: scalar factor on the weight of an even growth.
      shift: s of a leaf that is used as w + s.
      calibrated: whether its gradient factor is a guess, however copies are told apart.
      layer: where it comes from if the plan adds layers; `None`: from the leaf of the same path.
    """

    path: str
    small: tuple[int, ...]
    big: tuple[int, ...]
    dtype: str
    axes: tuple[AxisPlan | None, ...]
    weight: float = 1.0
    shift: float = 0.0
    calibrated: bool = False
    layer: Layer | None = None

    @property
    def new(self) -> bool:
        """Whether it belongs to a new layer."""
        return self.layer is not None and self.layer.new

    @property
    def source(self) -> str | None:
        """The leaf of the small model that it is or copies."""
        return self.path if self.layer is None else self.layer.source

    @property
    def splits(self) -> set[int]:
        """The numbers of the grown axes over whose copies it may be split."""
        return {n for axis in self.axes if axis for segment in axis.splits for n in segment}


def unchanged(path: str, shape: tuple[int, ...], dtype: str) -> LeafPlan:
    """A leaf that does not grow."""
    return LeafPlan(path, shape, shape, dtype, (None,) * len(shape))


class Origin(NamedTuple):
    """Where a leaf of the grown tree comes from, when growth adds layers.

    Attributes:
      leaf: the name of the old leaf it is, or whose neighbour it is; `None` for none.
      new: whether it belongs to a new layer, and so has no history of its own.
    """

    leaf: str | None
    new: bool = False


@dataclasses.dataclass(frozen=True)
class PlanData:
    """How one model's parameters become those of a wider or deeper one.

    Attributes:
      leaves: one `LeafPlan` a parameter, in the order of the pytree.
      grown_axes: the independent axes that grow.
      equations: how many equations of the program were proved.
      depth: the operator that adds layers, `None` if there are none to add.
      trees: of a plan that adds layers, the structures of the two models' parameters; `None` if
        the plan was read from JSON and they hold other containers than dicts, lists and tuples.

    Two plans are equal when they grow alike, and a plan is hashable. What can be done with it is on
    `trainkit.growth.Plan`.
    """

    leaves: tuple[LeafPlan, ...]
    grown_axes: tuple[GrownAxis, ...]
    equations: int = 0
    depth: str | None = None
    trees: tuple[Any, Any] | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def old(self) -> dict[str, LeafPlan]:
        """The small model's leaves: path there -> how the leaf grows."""
        return {str(leaf.source): leaf for leaf in self.leaves if not leaf.new}

    @property
    def origin(self) -> dict[str, Origin]:
        """For plans that add layers: path -> where the leaf comes from; otherwise empty."""
        return {
            leaf.path: Origin(leaf.layer.source, leaf.layer.new)
            for leaf in self.leaves
            if leaf.layer is not None
        }

    @property
    def zeroed(self) -> tuple[str, ...]:
        """The leaves (of stacked ones: the new rows) that are 0, for new layers to do nothing."""
        zero = (x.path for x in self.leaves if x.layer is not None and x.layer.becomes == "zero")
        return tuple(sorted(zero))

    @property
    def proof(self) -> Proof:
        """How far an exact growth by this plan is known to keep the function; see `GrowthMap`."""
        if self.depth is not None:
            return "reduced" if self.depth == "identity" else "assumed"
        return "proved" if self.equations else "assumed"

    def under(self, prefix: str) -> PlanData:
        """The part below one key at the top of the tree, with the key left out of the paths."""
        start = f"{prefix}/"

        def cut(leaf: LeafPlan) -> LeafPlan:
            layer = leaf.layer
            if layer is not None and layer.source is not None:
                layer = dataclasses.replace(layer, source=layer.source.removeprefix(start))
            return dataclasses.replace(leaf, path=leaf.path.removeprefix(start), layer=layer)

        return PlanData(
            leaves=tuple(cut(leaf) for leaf in self.leaves if leaf.path.startswith(start)),
            grown_axes=self.grown_axes,
            equations=self.equations,
            depth=self.depth,
            trees=None if self.trees is None else _below(self.trees, prefix),
        )


def _below(trees: tuple[Any, Any], prefix: str) -> tuple[Any, Any] | None:
    """The two structures below one key, where they are dicts."""
    whole = [jax.tree.unflatten(tree, range(tree.num_leaves)) for tree in trees]
    if not all(isinstance(tree, dict) for tree in whole):
        return None
    small, big = (jax.tree.structure(tree[prefix]) for tree in whole)
    return small, big


def copies(source: np.ndarray, n: int) -> np.ndarray:
    """For each new unit how many new units copy the same old one; 1 for those that copy none."""
    counts = np.bincount(source[source >= 0], minlength=n)
    return np.where(source >= 0, counts[np.where(source >= 0, source, 0)], 1)
