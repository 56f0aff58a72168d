"""Growth from one stage's model to the next, as one pure function of the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import optax

from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.operators import Operator
from trainkit.growth.views.mup import LeafMuP
from trainkit.step.state import TrainState

PyTree = Any


class StateGrowth(NamedTuple):
    """How a state grows, found from shapes alone.

    Attributes:
      apply: `state -> grown state`, pure and jittable: the same each time it is called.
      map: how the parameters grow: their `rates` (lr · c), the leaves of new layers, and what the
        certificate is made from. Without `leaves` it is certified by its outputs alone.
      exact: whether the grown model computes the same function.
      text: what was done, for reports.
      mup: leaf name -> its multipliers under the maximal-update parametrisation, relative to the
        small model's; `None`: not known.
    """

    apply: Callable[[TrainState], TrainState]
    map: MapData = MapData()
    exact: bool = True
    text: str = ""
    mup: Mapping[str, LeafMuP] | None = None


class StageModel(NamedTuple):
    """One of the two models that a growth goes between.

    Attributes:
      module: what the stage was given.
      model: its pure functions, `trainkit.adapters.model.Model`.
      state: shapes of its state.
    """

    module: Any
    model: Any
    state: TrainState

    @property
    def variables(self) -> PyTree:
        """What `outputs` takes."""
        return {"params": self.state.params, "model_state": self.state.model_state}

    def outputs(self, variables: PyTree, batch: PyTree) -> PyTree:
        """What the model gives for a batch outside of training; pure."""
        params, model_state, key = variables["params"], variables["model_state"], jax.random.key(0)
        return self.model.apply(params, model_state, self.model.inputs(batch), key, train=False)[0]


class Grow(Protocol):
    """`grow(small, big, batch, tx=…, how=…, reset=…, key=…) -> StateGrowth`; runs nothing.

    Raises:
      GrowthError: the big model cannot be grown from the small one.
    """

    def __call__(
        self,
        small: StageModel,
        big: StageModel,
        batch: PyTree,
        *,
        tx: optax.GradientTransformation,
        how: Operator,
        reset: bool,
        key: jax.Array,
    ) -> StateGrowth: ...
