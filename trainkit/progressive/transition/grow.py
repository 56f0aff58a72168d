"""The growth between the models of two stages, planned by `trainkit.growth`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit.adapters.functions import Functions
from trainkit.growth.maps.params import plan_of
from trainkit.growth.operators import EXACT, Operator
from trainkit.growth.plan.data import PlanData
from trainkit.growth.plan.table import table
from trainkit.growth.train_state import find_map, state_grower
from trainkit.growth.views.mup import mup
from trainkit.progressive.stages.bias_correction import Decays
from trainkit.progressive.transition.new_moments import begun_anew, decays_of
from trainkit.progressive.transition.state_growth import StageModel, StateGrowth
from trainkit.step.state import TrainState

PyTree = Any


def grown(
    small: StageModel,
    big: StageModel,
    batch: PyTree,
    *,
    tx: optax.GradientTransformation,
    how: Operator,
    reset: bool,
    key: jax.Array,
) -> StateGrowth:
    """See `trainkit.progressive.transition.state_growth.Grow`."""
    sides = _functions(small), _functions(big), (batch,)
    growth = find_map(*sides, how=how, key=key)
    plan = plan_of(growth)
    inside = growth.under("params")
    assert inside.plan is not None
    run = state_grower(growth, *sides, tx=tx, reset=reset)
    young: dict[str, Decays] = {}
    if inside.new and not reset and how.width != "perturb":
        known = decays_of(tx, big.state.params)
        young = {name: known[name] for name in inside.new if name in known}

    def apply(state: TrainState) -> TrainState:
        after = run(state)
        return after.replace(opt_state=begun_anew(after.opt_state, young.__contains__))

    return StateGrowth(
        apply=apply if young else run,
        map=inside,
        exact=how.width in EXACT and (plan.depth is None or how.depth == "identity"),
        text=_text(plan),
        mup=mup(inside.plan).leaves,
        young=young,
    )


def _functions(side: StageModel) -> Functions:
    def init(key: jax.Array, batch: PyTree) -> PyTree:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
        made = side.model.init(key, side.model.inputs(zeros))
        return dict(zip(("params", "model_state"), made, strict=True))

    return Functions(side.outputs, side.variables, init)


def _text(plan: PlanData) -> str:
    new = [
        f"{leaf.path}: {leaf.layer.becomes if leaf.layer.becomes != 'copy' else leaf.source}"
        for leaf in plan.leaves
        if leaf.layer is not None and leaf.layer.new
    ]
    return "\n".join([*(["New layers:", *new, ""] if new else []), table(plan)])
