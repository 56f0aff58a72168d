"""`PlanData`: static, hashable data that say how every leaf grows."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from trainkit.growth.axes.layouts import Layout

Structure = tuple[Any, ...]
How = Literal["uneven", "noise", "zero_out", "even", "rms"]
Proof = Literal["proved", "reduced", "measured", "assumed"]
IDENTITIES = ("eye", "eyes", "eye_first", "eyes_first")  # what a `Layer` becomes


@dataclasses.dataclass(frozen=True)
class GrownAxis:
    """One independent axis that grows, shared by all the parameter axes that are coupled.

    Attributes:
      small, big: its size before and after.
      layout: where the copies are. "repeat": copies of a unit are neighbours. "tile": the whole
        axis repeats. "stride": old unit i at index i·big/small, padding units between. "stride
        end": old unit i at index (i + 1)·big/small − 1. "append":
        old units first, padding units after them. "row mean": like "append", but padding units may
        hold the mean of the old units, which a LayerNorm subtracts. "centre": the old taps of a
        kernel in the middle. (Padding units copy no old unit.) Numbers are the new index of each
        old unit, with padding units everywhere else: the axis of an input or of its symbols.
        ("copies", 3, 1, 2) is how many neighbouring copies each old unit has (experts by use,
        rows that constants pick).
      clean: whether the axis is contracted with parameters alone, each of which can be split over
        its copies. Then uneven shares have an exact gradient factor, and "zero_out" is possible.
      paired: whether two activations are contracted over it (queries and keys).
      visible: whether a result has this axis. The old entries come first and are exact.
      fill: what padding units hold where any value is allowed: "random" values, or the "mean" of
        the old ones if the axis is never contracted (a vocabulary).
    """

    small: int
    big: int
    layout: Layout
    clean: bool
    paired: bool = False
    visible: bool = False
    fill: str = "random"


@dataclasses.dataclass(frozen=True)
class Layer:
    """Origin and initial value of a leaf, in a plan that adds layers.

    Attributes:
      source: path of the small model's leaf that it is or copies; `None` if there is none.
      new: whether it belongs to a new layer.
      becomes: what a new leaf holds: "copy" of its source, "zero", "unit" (1, which the identity
        needs), "minus_one" (a scale that is stored as its difference from 1, and is 0 so), "eye"
        (an identity matrix or Dirac kernel), "eyes" (an identity matrix for each leading index, of
        an ensemble), "eyes_first" (one for each trailing index), "eye_first" (a Dirac kernel whose
        channels are its first two axes), "one" (if `like=` has no value), "random" values, or
        other things in each of its "parts".
      start: of an "eye" with more rows than columns, the row where the identity matrix begins; the
        other rows are 0.
      axis: for leaves that are stacked over layers, the axis of the layers.
      rows: for each layer of a stacked leaf: (index of the old layer, whether it is new).
      cut, parts: the axis along which a leaf of "parts" is cut (the axis of the layers is not
        counted), and for each part its size and what it holds, as above.
    """

    source: str | None
    new: bool = False
    becomes: Literal[
        "copy",
        "zero",
        "unit",
        "minus_one",
        "eye",
        "eyes",
        "eye_first",
        "eyes_first",
        "one",
        "random",
        "parts",
    ] = "copy"
    axis: int = 0
    rows: tuple[tuple[int, bool], ...] = ()
    start: int = 0
    cut: int = 0
    parts: tuple[tuple[int, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class AxisPlan:
    """How one axis of one parameter grows.

    An axis may combine several grown axes: heads × head_dim merged, or a concatenation. Its parts
    are called segments. Numbers below are indices into `PlanData.grown_axes`.

    Attributes:
      structure: nested tuples of `("leaf", number)`, `("fixed", size)`, `("prod", …)` and
        `("sum", …)`.
      segments: for each segment the factor on the weight of an even growth; `()` if all are 1.
      splits: for each segment the numbers over whose copies this parameter is split.
      reads: the numbers over which this parameter itself is contracted: its input axes.
      tied: those in `reads` that are output axes too, as in a tied embedding.
      fresh: the numbers in whose padding units this parameter may hold any value.
      means: the numbers in whose padding units it holds the mean of the old units. In all other
        padding units it is 0.
      ordered: the numbers along which its copies get equal noise: `top_k` orders values that it
        produces, or they are multiplied by a parameter with noise of its own along this axis.
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
      shift: the constant s of a leaf that is used as w + s.
      calibrated: whether its gradient factor is a best guess, for every `how`.
      layer: its origin if the plan adds layers; `None`: the leaf of the same path.
      lines: where the model uses it first, as "file:line (function)".
      reason: why a factor is not 1/copies on the axes in `splits`; "" if all are.
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
    lines: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    reason: str = dataclasses.field(default="", compare=False, repr=False)

    @property
    def new(self) -> bool:
        """Whether it belongs to a new layer."""
        return self.layer is not None and self.layer.new

    @property
    def source(self) -> str | None:
        """Path of the small model's leaf that it is or copies."""
        return self.path if self.layer is None else self.layer.source

    @property
    def splits(self) -> set[int]:
        """The numbers of the grown axes over whose copies it is split."""
        return {n for axis in self.axes if axis for segment in axis.splits for n in segment}


def unchanged(path: str, shape: tuple[int, ...], dtype: str) -> LeafPlan:
    """A leaf that does not grow."""
    return LeafPlan(path, shape, shape, dtype, (None,) * len(shape))


class Origin(NamedTuple):
    """Origin of a leaf of the grown tree, if growth adds layers.

    Attributes:
      leaf: the old leaf that it is, or the one beside it in the nearest old layer; `None` for none.
      new: whether it belongs to a new layer, and so has no moments of its own.
    """

    leaf: str | None
    new: bool = False


@dataclasses.dataclass(frozen=True)
class PlanData:
    """How one model's parameters become those of a wider or deeper one.

    Attributes:
      leaves: one `LeafPlan` a parameter, in the order of the pytree.
      grown_axes: the independent axes that grow.
      equations: the number of equations in the proof; 0 without a proof.
      depth: the operator that adds layers; `None` if there are no new layers.
      inputs, results: how those inputs and results grow whose old entries have places of their
        own (`plan(inputs=…)`). They are like leaves; paths are the names in `NewInputs.places`.
      symbols: (name of an input of whole numbers, the new number of each old one).
      zero_inputs: whether new entries of inputs must be 0 for the function to be kept.
      trees: the tree structures of both models' parameters, if they differ (more layers, or modules
        that store their sizes), otherwise `None`. Instead of one that has containers other than
        dict, list and tuple, a plan from JSON has `None`.

    Two plans are equal if all leaves grow in the same way. A plan is hashable. Its methods are in
    the subclass `trainkit.growth.Plan`.
    """

    leaves: tuple[LeafPlan, ...]
    grown_axes: tuple[GrownAxis, ...]
    equations: int = 0
    depth: str | None = None
    inputs: tuple[LeafPlan, ...] = ()
    results: tuple[LeafPlan, ...] = ()
    symbols: tuple[tuple[str, tuple[int, ...]], ...] = ()
    zero_inputs: bool = False
    trees: tuple[Any, Any] | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def old(self) -> dict[str, LeafPlan]:
        """The small model's leaves: path in the small model -> plan of the leaf."""
        return {str(leaf.source): leaf for leaf in self.leaves if not leaf.new}

    @property
    def origin(self) -> dict[str, Origin]:
        """For plans that add layers: path -> origin of the leaf; otherwise empty."""
        return {
            leaf.path: Origin(leaf.layer.source, leaf.layer.new)
            for leaf in self.leaves
            if leaf.layer is not None
        }

    @property
    def zeroed(self) -> tuple[str, ...]:
        """Leaves that are 0 so that new layers are identities (of stacks, the new rows)."""
        zero = (x.path for x in self.leaves if x.layer is not None and x.layer.becomes == "zero")
        return tuple(sorted(zero))

    @property
    def proof(self) -> Proof:
        """How far a growth by this plan is known to keep the function; see `MapData.proof`."""
        if self.depth is not None:
            return "reduced" if self.depth == "identity" else "assumed"
        return "proved" if self.equations else "assumed"

    def under(self, prefix: str) -> PlanData:
        """The plan of the subtree below a top-level key, with paths relative to it."""
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
            inputs=self.inputs,
            results=self.results,
            symbols=self.symbols,
            zero_inputs=self.zero_inputs,
            trees=None if self.trees is None else _below(self.trees, prefix),
        )


def _below(trees: tuple[Any, Any], prefix: str) -> tuple[Any, Any] | None:
    """The two structures below one key; `None` if the trees are not dicts."""
    if any(tree is None for tree in trees):
        return trees
    whole = [jax.tree.unflatten(tree, range(tree.num_leaves)) for tree in trees]
    if not all(isinstance(tree, dict) for tree in whole):
        return None
    small, big = (jax.tree.structure(tree[prefix]) for tree in whole)
    return small, big


def copies(source: np.ndarray, n: int) -> np.ndarray:
    """int64[big]: how many new units copy the same old unit; 1 for padding units."""
    counts = np.bincount(source[source >= 0], minlength=n)
    return np.where(source >= 0, counts[np.where(source >= 0, source, 0)], 1)
