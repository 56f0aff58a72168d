"""The plan: static, hashable data that say how every leaf grows."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import numpy as np

from trainkit.growth.errors import GrowthError
from trainkit.growth.plan.leaf_map import LeafGrowth, Origin
from trainkit.packed import Packed

PyTree = Any
Structure = tuple[Any, ...]
Symmetry = Literal["uneven", "noise", "zero_out", "even", "rms"]


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
      calibrated: whether its gradient factor is a guess, whatever the symmetry.
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one model's parameters become those of a wider or deeper one.

    Attributes:
      leaves: one `LeafPlan` a parameter, in the order of the pytree.
      grown_axes: the independent axes that grow.
      equations: how many equations of the program were proved.
      depth: the operator that adds layers, `None` if there are none to add.
      trees: of a plan that adds layers, the structures of the two models' parameters; `None` if
        the plan was read from JSON and they hold other containers than dicts, lists and tuples.

    `print(plan)` shows the table. Two plans are equal when they grow alike; a plan is hashable, and
    `Plan.from_json(plan.to_json()) == plan`.
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

    def to_json(self) -> str:
        """The plan as JSON text."""
        from trainkit.growth.plan.json import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote, or that of an earlier version did.

        Raises:
          ValueError: the text is not such a plan.
        """
        from trainkit.growth.plan.json import fields_from_json

        return cls(**fields_from_json(text))

    def realise(
        self, key: jax.Array | None = None, symmetry: Symmetry = "even"
    ) -> dict[str, LeafGrowth]:
        """Draws what is random and gives the maps and factors of every leaf, by path (host arrays).

        Args:
          key: a random key; only "even" does without.
          symmetry: how copies are told apart; see `grow`.
        """
        from trainkit.growth.maps.realise import realise

        return realise(self, key, symmetry)

    def grow(
        self,
        params: PyTree,
        *,
        key: jax.Array | None = None,
        symmetry: Symmetry = "uneven",
        donate: bool = False,
        out_shardings: Any = None,
        like: PyTree = None,
    ) -> PyTree:
        """The parameters of the big model that compute what `params` compute in the small one.

        Args:
          params: the small model's parameters, shapes and dtypes as planned.
          key: a random key (`jax.random.key`); needed unless `symmetry="even"`.
          symmetry: how copies of a unit are told apart, always without changing the function:
            "uneven" reads them with unequal shares; "noise" adds noise to the shares that sums to
            zero over the copies; "zero_out" reads the new copies with 0 and draws their own inputs
            at random; "even" leaves them equal, and they stay equal in training; "rms" changes the
            function: W[π]·√(d_in/d_in′), which keeps the scale of activations. Axes where a
            variant is impossible fall back to even copies: `table()` says which.
          donate: whether `params` may be overwritten (their buffers are given up).
          out_shardings: where the results live: a sharding or a pytree of them.
          like: the big model's parameters or their shapes, if the result is to have their
            container (modules that carry their sizes, as Equinox's do); `None` for that of
            `params`, or of the plan if it adds layers. New layers that copy none hold its values,
            if it has any.

        Returns:
          The big model's parameters, a pytree like `params` (packed ones packed) unless layers are
          added, of the same dtypes; the arithmetic is float32 for narrower ones.

        Raises:
          GrowthError: `params` are not those of the plan.
        """
        from trainkit.growth.maps.apply import grow_params

        if isinstance(params, Packed):
            tree = grow_params(self, params.tree, key, symmetry, False, out_shardings, like)
            return Packed.pack(tree)
        return grow_params(self, params, key, symmetry, donate, out_shardings, like)

    def grow_opt_state(
        self,
        tx: Any,
        opt_state: PyTree,
        params: PyTree | None = None,
        grown_params: PyTree | None = None,
        *,
        key: jax.Array | None = None,
        symmetry: Symmetry = "uneven",
        slots: Any = None,
        reset: Any = False,
        donate: bool = False,
        out_shardings: Any = None,
    ) -> PyTree:
        """The state of `tx` for the grown parameters: slot′ = f^degree · slot[π].

        Args:
          tx: the gradient transformation, the same before and after.
          opt_state: its state for the small parameters.
          params, grown_params: the parameters before and after; needed where the state copies
            parameters (EMA, schedule-free) and growth drew random values for them.
          key, symmetry: as given to `grow`.
          slots, reset: see `trainkit.growth.opt_state.grow.grow_opt_state`.
          donate: whether the buffers of `opt_state` are given up.
          out_shardings: where the results live: a sharding or a pytree of them.

        Raises:
          GrowthError: the state holds a class that is not in the table of slots, or is not `tx`'s.
        """
        from trainkit.growth.opt_state.continuation import grow_opt_state

        more = (key, symmetry, slots, reset, donate, out_shardings)
        return grow_opt_state(self, tx, opt_state, params, grown_params, *more)

    def exact(
        self,
        tx: Any,
        *,
        key: jax.Array | None = None,
        symmetry: Symmetry = "uneven",
        anneal: Any = None,
        slots: Any = None,
    ) -> Any:
        """`tx` with factors under which the grown model follows the small one step for step.

        Args:
          tx: the plain gradient transformation, any.
          key, symmetry: as given to `grow`.
          anneal: over how many steps to go over to plain training (or a schedule from 0 to 1);
            `None`: never. See `trainkit.growth.opt_state.exact.exact`.
          slots: see `trainkit.growth.opt_state.grow.grow_opt_state`.

        Returns:
          A gradient transformation whose state is what `grow_opt_state` returns.
        """
        from trainkit.growth.opt_state.continuation import exact

        return exact(self, tx, key, symmetry, anneal, slots)

    def mup(self) -> Any:
        """The multipliers of the maximal-update parametrisation; see `growth.views.mup`."""
        from trainkit.growth.views.mup import mup

        return mup(self)

    def shrink(self, params: PyTree, **how: Any) -> PyTree:
        """The parameters of the small model, of units chosen from those of the big one.

        Args:
          params: the big model's parameters.
          **how: `score`, `how`, `grads`, …: see `growth.views.prune.selection`, whose result
            also says what was kept and what was lost.

        Raises:
          GrowthError: `params` are not the big model's, or a score lacks what it needs.
        """
        from trainkit.growth.views.prune import selection

        return selection(self, params, **how).apply(params)

    def deepen(self, params: PyTree, *more: Any, **how: Any) -> PyTree:
        """`grow`, for a plan that adds layers; with functions, `trainkit.growth.deepen`.

        Raises:
          GrowthError: the plan adds none.
        """
        if more:
            from trainkit.growth.deepen import deepen

            return deepen(params, *more, **how)
        if self.depth is None:
            raise GrowthError(
                "this plan adds no layers",
                hint="make it of a big model that has more: plan(small_fn, big_fn, small_params, "
                "big_params, *inputs, how='identity'), or at once: trainkit.growth.deepen",
            )
        return self.grow(params, **how)

    def certificate(
        self,
        small_fn: Any,
        big_fn: Any,
        params: PyTree,
        *inputs: PyTree,
        tx: Any,
        opt_state: PyTree = None,
        key: jax.Array | None = None,
        symmetry: Symmetry = "uneven",
    ) -> Any:
        """Grows, and measures what that did; see `trainkit.growth.certify`.

        Args:
          small_fn, big_fn, params, *inputs: as the plan was made; arrays for `params`.
          tx: the transformation that training uses.
          opt_state: its state for `params`; `None` for a fresh one.
          key, symmetry: as given to `grow`.
        """
        from trainkit.growth.views.certify import of_plan

        return of_plan(self, small_fn, big_fn, params, inputs, tx, opt_state, key, symmetry)

    def table(self) -> str:
        """Plain text: leaf, shapes, axis groups, map, weight and gradient factor, bytes."""
        from trainkit.growth.plan.table import table

        return table(self)

    def __str__(self) -> str:
        return self.table()


def copies(source: np.ndarray, n: int) -> np.ndarray:
    """For each new unit how many new units copy the same old one; 1 for those that copy none."""
    counts = np.bincount(source[source >= 0], minlength=n)
    return np.where(source >= 0, counts[np.where(source >= 0, source, 0)], 1)
