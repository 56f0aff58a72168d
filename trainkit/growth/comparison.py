"""The arguments of `certify`, made from training states and modules, or from parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from trainkit.adapters.functions import Functions
from trainkit.growth.errors import GrowthError
from trainkit.growth.flax_states import taken
from trainkit.growth.ir.trace import shape_of, traced_program
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.inputs import new_inputs
from trainkit.growth.maps.params import grow_params, plan_of
from trainkit.growth.models import functions, in_boxes_of, inputs_from
from trainkit.growth.opt_state.arguments import opt_state_of
from trainkit.growth.opt_state.slots import Slots
from trainkit.growth.plan.validation import check_params, check_tx
from trainkit.growth.train_state import check_small, grow_state, state_grower
from trainkit.growth.views.certify import TrainedModel
from trainkit.packed import unpack_all
from trainkit.step.state import TrainState

PyTree = Any


class Comparison(NamedTuple):
    """Arguments of `certify`: the map of the parameters, both models with states, the inputs."""

    growth: MapData
    before: TrainedModel
    after: TrainedModel
    inputs: tuple[Any, ...]


def of_states(
    growth: MapData,
    small: Any,
    big: Any,
    state: TrainState,
    inputs: tuple[Any, ...],
    tx: optax.GradientTransformation,
    *,
    like: PyTree,
    slots: Slots | None,
) -> Comparison:
    """For a map of training states; see `trainkit.growth.GrowthMap.certificate`."""
    check_tx(tx)
    inputs = inputs_from(inputs[0], small) if len(inputs) == 1 else inputs
    state = unpack_all(taken(state, small, big, inputs).state)
    before = functions(small, inputs, state.params, state.model_state, "small")
    before = in_boxes_of(state.params, before)
    check_small(before, state)
    wide = _wide(growth, inputs)
    after = in_boxes_of(state.params, _big(growth, big, wide, state, tx, like))
    run = state_grower(growth, before, after, wide, tx=tx, slots=slots)
    grown = jax.jit(run)(state)
    sides = TrainedModel(before.fn, state), TrainedModel(after.fn, grown)
    return Comparison(growth.under("params"), *sides, inputs)


def _wide(growth: MapData, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shapes of the big model's inputs."""
    if growth.plan is None:
        return inputs
    key = jax.random.key(0)
    shapes = jax.tree.map(shape_of, inputs)
    return jax.eval_shape(lambda xs: new_inputs(plan_of(growth), xs, key), shapes)


def _big(
    growth: MapData,
    big: Any,
    inputs: tuple[Any, ...],
    state: TrainState,
    tx: optax.GradientTransformation,
    like: PyTree,
) -> Functions:
    try:
        return functions(big, inputs, what="big")
    except GrowthError:
        # A plain function does not know its parameters. They are the result of the map.
        if like is None:
            grown = jax.eval_shape(lambda s: grow_state(growth, tx, s, reset=True), state)
            like = {"params": grown.params, "model_state": grown.model_state}
        return functions(big, inputs, like["params"], like["model_state"], "big")


def of_params(
    growth: MapData,
    small_fn: Any,
    big_fn: Any,
    params: PyTree,
    inputs: tuple[Any, ...],
    tx: optax.GradientTransformation,
    *,
    opt_state: PyTree,
    like: PyTree,
    slots: Slots | None,
) -> Comparison:
    """For a map of parameters; see `trainkit.growth.GrowthMap.certificate`."""
    check_tx(tx)
    check_params(plan_of(growth), params)
    traced_program(small_fn, params, inputs, "small")
    if opt_state is None:
        opt_state = tx.init(params)
    grown = grow_params(growth, params, like=like)
    moments = opt_state_of(growth, tx, opt_state, params, grown, slots=slots)
    sides = []
    wide = _wide(growth, inputs)
    for fn, xs, tree, state in (
        (small_fn, inputs, params, opt_state),
        (big_fn, wide, grown, moments),
    ):
        found = functions(fn, xs, tree, {})
        sides.append(TrainedModel(found.fn, TrainState.create(tree, tx).replace(opt_state=state)))
    return Comparison(growth, sides[0], sides[1], inputs)
