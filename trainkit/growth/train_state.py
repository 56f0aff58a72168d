"""Growth of a whole training state: parameters, model state, optimizer state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit._core import validation
from trainkit._core.paths import named_leaves
from trainkit._core.validation import steps
from trainkit.adapters.functions import Functions
from trainkit.growth.errors import GrowthError
from trainkit.growth.flax_states import taken
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.params import grower, run_on_device
from trainkit.growth.maps.perturb import shrink_and_perturb
from trainkit.growth.maps.realise import realise
from trainkit.growth.models import functions, in_boxes_of, inputs_from
from trainkit.growth.operators import Operator
from trainkit.growth.opt_state.grow import grow_opt_state
from trainkit.growth.opt_state.slots import Slots
from trainkit.growth.plan.forms import converting, unboxed
from trainkit.growth.plan.inputs import NewInputs
from trainkit.growth.plan.validation import check_shapes, check_tx
from trainkit.growth.planning import plan
from trainkit.growth.views.outputs import concrete, relative_change
from trainkit.packed import Packed, repack, unpack_all
from trainkit.step.state import TrainState

PyTree = Any
_PARAMS = "params/"


def grown_state(
    state: TrainState,
    small: Any,
    big: Any,
    example: Any,
    *,
    tx: optax.GradientTransformation,
    how: Operator,
    key: jax.Array | int,
    new: NewInputs | None = None,
    big_params: PyTree = None,
    big_model_state: PyTree = None,
    donate: bool = False,
    out_shardings: Any = None,
    **options: Any,
) -> tuple[MapData, Any]:
    """The map and the grown state. Arguments and errors are those of `trainkit.growth.grow`.

    Args:
      **options: `slots`, `reset`.
    """
    check_tx(tx)
    inputs = inputs_from(example, small)
    state, back = taken(state, small, big, inputs)
    steps.state(state)
    validation.flag("donate", donate, "grow")
    given, state = state, unpack_all(state)
    key = validation.key_of("key", key)
    before = functions(small, inputs, state.params, state.model_state, "small")
    given_big = inputs if new is None or new.example is None else inputs_from(new.example, big)
    after = functions(big, given_big, big_params, big_model_state or state.model_state, "big")
    before, after = in_boxes_of(state.params, before), in_boxes_of(state.params, after)
    check_small(before, state)
    sides = before, after, inputs
    new = None if new is None else dataclasses.replace(new, example=given_big)
    try:
        found = find_map(*sides, how=how, key=key, new=new)
    except GrowthError as error:
        if how != Operator() or new is not None:
            raise
        measured = measured_map(*sides, state, error.remedy or "experts", key, tx=tx, **options)
        if measured is None:
            raise
        found = measured
    if how.depth == "groups" and _concrete(state):
        measured = measured_map(*sides, state, how.depth, key, tx=tx, **options)
        if measured is None:
            raise GrowthError(
                "with copies of every key head side by side the outputs change: query head i does "
                "not read key head i // (query heads / key heads)",
                hint="repeat key heads by jnp.repeat(k, repeats, axis of heads), not by jnp.tile",
            )
        found = dataclasses.replace(found, proof=measured.proof)
    run = state_grower(found, before, after, given_big, tx=tx, **options)
    grown = run_on_device(run, (state,), out_shardings, state if donate else None)
    if isinstance(given.params, Packed):
        params = Packed.pack(grown.params)
        opt_state = repack(grown.opt_state, given.opt_state, params)
        grown = grown.replace(params=params, opt_state=opt_state)
    return found, back(grown, found)


def find_map(
    small: Functions,
    big: Functions,
    inputs: tuple[Any, ...],
    *,
    how: Operator,
    key: jax.Array,
    new: NewInputs | None = None,
) -> MapData:
    """The map of the tree `{"params": …, "model_state": …}`, from shapes alone.

    Raises:
      GrowthError: the big model cannot be grown from the small one.
    """
    found = plan(
        small.fn,
        big.fn,
        small.variables,
        big.variables,
        *inputs,
        how=how,
        trainable=lambda name: name.startswith(_PARAMS),
        new=new,
    )
    if how.width == "perturb":
        return dataclasses.replace(realise(found, key, "uneven"), how="perturb", proof="assumed")
    width: Any = how.width
    return realise(found, key, width)


def grow_state(
    growth: MapData,
    tx: optax.GradientTransformation,
    state: TrainState,
    *,
    like: PyTree = None,
    init: Callable[[jax.Array], PyTree] | None = None,
    slots: Slots | None = None,
    reset: bool | str | Sequence[str] = False,
) -> TrainState:
    """The grown state; pure and jittable.

    Args:
      growth: a map of the tree `{"params": …, "model_state": …}`.
      tx: the transformation of `state.opt_state`.
      state: the small model's state, with unpacked parameters.
      like: the big model's variables or their shapes, if their tree structure differs.
      init: key -> initial variables of the big model, for leaves that copy no old leaf.
      slots, reset: see `trainkit.growth.GrowthMap.opt_state`.
    """
    key = growth.key
    values = None if init is None or key is None else init(key)
    variables = {"params": state.params, "model_state": state.model_state}
    new = grower(growth, like, values)(variables, key)
    if growth.how == "perturb":
        start = None if values is None else values["params"]
        new["params"] = shrink_and_perturb(new["params"], key, fresh=start)
        reset = True
    inside = growth.under("params")
    old = state.opt_state, inside, state.params
    opt_state = grow_opt_state(tx, *old, new["params"], slots=slots, reset=reset)
    return state.replace(params=new["params"], model_state=new["model_state"], opt_state=opt_state)


def state_grower(
    growth: MapData, small: Functions, big: Functions, inputs: tuple[Any, ...], **options: Any
) -> Callable[[TrainState], TrainState]:
    """`grow_state` between two models, as a function of the state alone.

    Args:
      **options: `tx`, `slots`, `reset`.
    """
    # Equinox modules store their sizes, so their tree structure differs between the models.
    sides = (jax.tree.structure(side.variables) for side in (small, big))
    like = None if len(set(sides)) == 1 else big.variables
    start = big.init
    init = None if start is None else lambda key: start(key, *inputs)
    return lambda state: grow_state(growth, state=state, like=like, init=init, **options)


def _concrete(state: TrainState) -> bool:
    """Whether every leaf of a state is an array, and none is traced."""
    leaves = jax.tree.leaves(state)
    arrays = all(isinstance(x, jax.Array | np.ndarray) for x in leaves)
    return arrays and not any(isinstance(x, jax.core.Tracer) for x in leaves)


def measured_map(
    before: Functions,
    after: Functions,
    inputs: tuple[Any, ...],
    state: TrainState,
    depth: str,
    key: jax.Array,
    **options: Any,
) -> MapData | None:
    """The map from a dense layer to experts, or to more key heads, if outputs stay the same.

    There is no proof, so outputs are compared. `None`: there is no such map, or `state` has no
    concrete values to compare with.
    """
    if not _concrete(state):
        return None
    try:
        growth = find_map(before, after, inputs, how=Operator(depth=depth), key=key)
    except GrowthError:
        return None
    run = state_grower(growth, before, after, inputs, **options)
    rng = np.random.default_rng(0)
    xs = jax.tree.map(lambda x: concrete(x, rng), inputs)
    sides = (before.fn, state), (after.fn, jax.jit(run)(state))
    a, b = (jax.jit(fn)({"params": s.params, "model_state": s.model_state}, *xs) for fn, s in sides)
    if not all(jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(a)):
        return None
    dtypes = {x.dtype for x in jax.tree.leaves(state.params)}
    eps = [float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.inexact)]
    change = relative_change(a, b)
    if change <= min(1e3 * max(eps, default=0.0), 0.1):
        return dataclasses.replace(growth, proof="measured")
    if depth == "groups":
        return None
    raise GrowthError(
        "the big model has a mixture of experts where the small one has a dense layer, but with "
        f"a copy of that layer in every expert the outputs change by {change:.1e} of their scale: "
        "the gates of the chosen experts do not sum to 1",
        params=[name for name in growth.new if name.startswith(_PARAMS)],
        hint="divide the gates by their sum (or take the softmax over the chosen experts alone), "
        'or accept the change with how="experts"',
    )


def check_small(before: Functions, state: TrainState) -> None:
    """Raises a `GrowthError` if a state is not the small model's."""
    given = {"params": state.params, "model_state": state.model_state}
    hint = None
    for name, part in given.items() if isinstance(before.variables, dict) else ():
        found, wanted = (list(named_leaves(tree)) for tree in (part, before.variables[name]))
        if set(found) != set(wanted):
            hint = hint or converting(found, wanted, f"state.{name}")
        more = set(map(unboxed, found)) - set(wanted)
        if more and all("rng" in path.lower() or "count" in path for path in more):
            hint = "leave random streams out: model_state=nnx.to_pure_dict(nnx.state(small, "
            hint += "nnx.BatchStat))"
    check_shapes(
        given,
        {name: tuple(leaf.shape) for name, leaf in named_leaves(before.variables).items()},
        "the state is not the small model's",
        hint or "pass the module that this state was trained with as small",
    )
