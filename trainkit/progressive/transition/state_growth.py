"""The growth of a train state from one stage's model to the next, as a pure function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import optax

from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.operators import Operator
from trainkit.growth.views.mup import LeafMuP
from trainkit.progressive.stages.bias_correction import Decays
from trainkit.step.state import TrainState

PyTree = Any


class StateGrowth(NamedTuple):
    """The growth of a state, planned from shapes alone.

    Attributes:
      apply: `state -> grown state`, pure, jittable and deterministic.
      map: how the parameters grow: their `rates` (lr · c) and the leaves of new layers; the
        certificate is computed from it. Without `leaves`, only outputs are certified.
      exact: whether the grown model computes the same function.
      text: a description for reports.
      mup: leaf name -> its multipliers under the maximal-update parametrisation, relative to the
        small model's; `None`: unknown.
      young: leaf of a new layer -> the decays of its moments, where these begin at 0 and the bias
        is to be corrected by their own age; see `trainkit.progressive.stages.bias_correction`.
    """

    apply: Callable[[TrainState], TrainState]
    map: MapData = MapData()
    exact: bool = True
    text: str = ""
    mup: Mapping[str, LeafMuP] | None = None
    young: Mapping[str, Decays] = {}


class StageModel(NamedTuple):
    """The model before or after a growth.

    Attributes:
      module: `Stage.model`.
      model: its pure functions, a `trainkit.adapters.model.Model`.
      state: its train state: arrays or their shapes.
    """

    module: Any
    model: Any
    state: TrainState

    @property
    def variables(self) -> PyTree:
        """{"params", "model_state"}: the first argument of `outputs`."""
        return {"params": self.state.params, "model_state": self.state.model_state}

    def outputs(self, variables: PyTree, batch: PyTree) -> PyTree:
        """The outputs of the model for a batch in evaluation mode; a pure function."""
        params, model_state, key = variables["params"], variables["model_state"], jax.random.key(0)
        return self.model.apply(params, model_state, self.model.inputs(batch), key, train=False)[0]


class Grow(Protocol):
    """`grow(small, big, batch, tx=…, how=…, reset=…, key=…) -> StateGrowth`, from shapes alone.

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
