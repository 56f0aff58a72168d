"""Growth from one stage's model to the next, as one pure function of the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import optax

from trainkit.growth.operators import Operator
from trainkit.growth.opt_state.grow import Origin
from trainkit.growth.plan.leaf_map import LeafGrowth
from trainkit.growth.views.mup import LeafMuP
from trainkit.step.state import TrainState

PyTree = Any


class Growth(NamedTuple):
    """How a state grows, found from shapes alone.

    Attributes:
      apply: `state -> grown state`, pure and jittable: the same each time it is called.
      rates: leaf name of the grown parameters -> the factor on the learning rate under which it
        would go on as the small model did (lr · c); leaves that are not named have 1.
      fresh: names of the leaves of new layers.
      exact: whether the grown model computes the same function.
      text: what was done, for reports.
      leaves: leaf name of the grown parameters -> how it grew; what the certificate is made from.
        `None`: a growth that does not say, and is certified by its outputs alone.
      origin: leaf name of the grown parameters -> where it comes from.
      zeroed: names of the leaves that are 0 so that new layers add nothing.
      mup: leaf name -> its multipliers under the maximal-update parametrisation, relative to the
        small model's; `None`: not known.
    """

    apply: Callable[[TrainState], TrainState]
    rates: Mapping[str, float] = {}
    fresh: frozenset[str] = frozenset()
    exact: bool = True
    text: str = ""
    leaves: Mapping[str, LeafGrowth] | None = None
    origin: Mapping[str, Origin] = {}
    zeroed: tuple[str, ...] = ()
    mup: Mapping[str, LeafMuP] | None = None


class Side(NamedTuple):
    """One of the two models that a growth goes between.

    Attributes:
      module: what the stage was given.
      model: its pure functions, `trainkit.adapters.model.Model`.
      state: shapes of its state.
    """

    module: Any
    model: Any
    state: TrainState


class Grow(Protocol):
    """`grow(small, big, batch, tx=…, how=…, reset=…, key=…) -> Growth`; runs nothing.

    Raises:
      GrowthError: the big model cannot be grown from the small one.
    """

    def __call__(
        self,
        small: Side,
        big: Side,
        batch: PyTree,
        *,
        tx: optax.GradientTransformation,
        how: Operator,
        reset: bool,
        key: jax.Array,
    ) -> Growth: ...
