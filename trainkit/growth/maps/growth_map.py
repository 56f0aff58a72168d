"""The one carrier: what a plan has become once everything random in it is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import jax

from trainkit.growth.maps.leaf_map import LeafMap
from trainkit.growth.maps.noise import Noise
from trainkit.growth.plan.data import How, Origin, PlanData, Proof


class Draw(NamedTuple):
    """What is random in one leaf.

    Attributes:
      number: folded into the key, so that each leaf draws its own values.
      noise: where noise is added to it; `None`: nowhere.
    """

    number: int
    noise: Noise | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class MapData:
    """How every leaf of one model becomes the leaves of another; the data of a `GrowthMap`.

    Parameters, moments, exact continuation and certificate all read this one object, so that what
    was drawn is the same for all of them.

    Attributes:
      leaves: name of a grown leaf -> its `LeafMap`; a leaf that is not named is unchanged.
      origin: name of a grown leaf -> the old leaf it is or stands beside. Empty: from the leaf of
        the same name.
      zeroed: the leaves (of stacked ones: the new rows) that are 0, for new layers to do nothing.
      proof: how far the growth is known to keep the function: "proved" over the two programs;
        "reduced": new layers were taken out of the program by partial evaluation, and the rest was
        proved; "measured" by comparing outputs; "assumed" by names or by an operator.
      rates: name of a leaf -> the factor on its learning rate under which a sign-like rule goes on
        as in the small model (lr · c); a leaf that is not named has 1.
      plan: what it was made of; `None` for maps that were written by hand.
      key: what random values are made of; `None` where nothing is drawn.
      how: the operator for width; "perturb" is of whole states (`growth.grow`) alone.
      draws: name of a leaf -> what is random in it.
    """

    leaves: Mapping[str, LeafMap] = dataclasses.field(default_factory=dict)
    origin: Mapping[str, Origin] = dataclasses.field(default_factory=dict)
    zeroed: tuple[str, ...] = ()
    proof: Proof = "assumed"
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    plan: PlanData | None = dataclasses.field(default=None, repr=False)
    key: jax.Array | None = dataclasses.field(default=None, repr=False)
    how: How | Literal["perturb"] = "even"
    draws: Mapping[str, Draw] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def new(self) -> tuple[str, ...]:
        """The leaves of new layers."""
        return tuple(name for name, origin in self.origin.items() if origin.new)

    def origin_of(self, name: str) -> Origin:
        """Where a grown leaf comes from."""
        return self.origin.get(name, Origin(name))

    def under(self, prefix: str) -> Self:
        """The part below one key of the tree, with the key left out of the names.

        What is drawn stays what it is in the whole.

        Args:
          prefix: a key at the top of the tree, such as "params".

        Raises:
          KeyError: there is nothing below it.
        """
        start = f"{prefix}/"
        cut = lambda name: name.removeprefix(start)
        inside = lambda found: {cut(k): v for k, v in found.items() if k.startswith(start)}
        if not any(name.startswith(start) for name in self.leaves):
            raise KeyError(f"no leaf of this growth is below {prefix!r}")
        origin = {k: Origin(o.leaf and cut(o.leaf), o.new) for k, o in inside(self.origin).items()}
        return dataclasses.replace(
            self,
            leaves=inside(self.leaves),
            origin=origin,
            zeroed=tuple(cut(name) for name in self.zeroed if name.startswith(start)),
            rates=inside(self.rates),
            draws=inside(self.draws),
            plan=None if self.plan is None else self.plan.under(prefix),
        )
