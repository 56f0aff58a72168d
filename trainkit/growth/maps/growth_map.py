"""`MapData`: a plan with its random values drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import jax

from trainkit.growth.maps.leaf_map import LeafMap
from trainkit.growth.maps.noise import Noise
from trainkit.growth.plan.data import How, Origin, PlanData, Proof


class Draw(NamedTuple):
    """The random values of one leaf.

    Attributes:
      number: folded into the key, so that each leaf has its own values.
      noise: where noise is added; `None`: nowhere.
    """

    number: int
    noise: Noise | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class MapData:
    """How every leaf of one model becomes a leaf of another; the data of a `GrowthMap`.

    Parameters, moments, exact continuation and certificate all use this object, so they use the
    same random values.

    Attributes:
      leaves: name of a grown leaf -> its `LeafMap`. Leaves without an entry do not change.
      origin: name of a grown leaf -> its origin. If empty, each leaf comes from the leaf of the
        same name.
      zeroed: leaves that are 0 so that new layers are identities (of stacks, the new rows).
      proof: how far the function is known to be kept. "proved": by the equations of both programs.
        "reduced": new layers were removed by partial evaluation, and the rest was proved.
        "measured": by comparing outputs. "assumed": found by names, or by an operator that changes
        the function; not checked.
      rates: name of a leaf -> factor c on its learning rate, under which a sign-like rule continues
        as in the small model. Leaves without an entry have 1.
      plan: the plan that was realised; `None` for hand-written maps.
      key: the random key; `None` if nothing is random.
      how: the operator for width; "perturb" occurs only for training states (`growth.grow`).
      draws: name of a leaf -> its random values.
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
        """The origin of a grown leaf."""
        return self.origin.get(name, Origin(name))

    def under(self, prefix: str) -> Self:
        """The map of the subtree below a top-level key, with names relative to it.

        The random values are the same as in the whole tree.

        Args:
          prefix: a key at the top of the tree, such as "params".

        Raises:
          KeyError: there is no leaf below it.
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
