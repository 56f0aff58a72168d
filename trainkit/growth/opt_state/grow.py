"""Growth of optimizer states: every slot is scaled by its degree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.paths import named_leaves, path_name
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.expert_axis import lifted
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import LeafMap
from trainkit.growth.opt_state.degrees import degrees_in_place
from trainkit.growth.opt_state.directions import Contract, Direction, Expand, mean_of_all, owner
from trainkit.growth.opt_state.expert_axis import lifted_state
from trainkit.growth.opt_state.slots import Kind, Slot, Slots, as_slot, check_slots
from trainkit.growth.opt_state.states import quantised
from trainkit.growth.opt_state.states.by_class import SPECIAL
from trainkit.growth.opt_state.traversal import record, traverse
from trainkit.growth.plan.forms import in_form_of
from trainkit.growth.plan.validation import check_tx, patterns_of
from trainkit.packed import Packed, repack, unpack_all

PyTree = Any


def grow_opt_state(
    tx: optax.GradientTransformation,
    opt_state: PyTree,
    growth: MapData,
    params: PyTree,
    grown_params: PyTree,
    *,
    slots: Slots | None = None,
    reset: bool | str | Sequence[str] = False,
    degrees: Mapping[str, Slot] | None = None,
) -> PyTree:
    """The state of `tx` for the grown parameters: slot′ = f^degree · slot[π].

    f is the factor on the gradient and π the index map of a leaf. Momenta are multiplied by f, and
    second moments by f². Copies of parameters (EMA, lookahead, schedule-free) grow like the
    parameters. Counts and scalars stay. In padding units μ = 0, and ν is the mean over the old
    entries of the same row or column. Adafactor may factor other axes after growth.

    Args:
      tx: the transformation, the same before and after growth.
      opt_state: its state for `params`, or the same leaves in the containers of a checkpoint
        (dicts and lists in place of named tuples).
      growth: the map of the growth; leaves without an entry do not change.
      params: the old parameters.
      grown_params: the grown parameters, packed if the state is.
      slots: `{StateClass: {field: kind}}` for state classes that are not in the table; see
        `trainkit.growth.opt_state.slots.Kind`.
      reset: `True` for a new state; or regular expressions for names of leaves whose moments are
        reset: momenta become 0, and second moments the mean of the leaf. (0 with an old count would
        make the first updates far too large.)
      degrees: the result of `degrees_of` for `tx`; `None`: computed here. `{}`: use the table
        alone.

    Returns:
      A state with the structure of `tx.init(grown_params)`.

    Raises:
      GrowthError: a state class is not in the table, a slot does not have the shape of its
        parameter, or a leaf changes its shape without an entry in `growth`.

    >>> import jax.numpy as jnp, numpy as np, optax
    >>> from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
    >>> copies = AxisMap(np.array([0, 1, 0, 1]), np.ones(4), np.full(4, .5))
    >>> params, tx = {"b": jnp.zeros(2)}, optax.adam(1e-3)
    >>> _, state = tx.update({"b": jnp.array([1., 2.])}, tx.init(params), params)
    >>> grown = grow_opt_state(
    ...     tx, state, MapData({"b": LeafMap((copies,))}), params, {"b": jnp.zeros(4)})
    >>> [round(float(m), 3) for m in grown[0].mu["b"]]
    [0.05, 0.1, 0.05, 0.1]
    """
    if isinstance(grown_params, Packed):
        grown_tree = grow_opt_state(
            tx,
            unpack_all(opt_state),
            growth,
            unpack_all(params),
            grown_params.tree,
            slots=slots,
            reset=reset,
            degrees=degrees,
        )
        return repack(grown_tree, opt_state, grown_params)
    check_tx(tx)
    check_slots(slots)
    if reset is True:
        return tx.init(grown_params)
    with jax.numpy_dtype_promotion("standard"):
        opt_state = in_form_of(opt_state, jax.eval_shape(tx.init, params))
    opt_state, params = lifted_state(tx, opt_state, params, growth), lifted(params, growth)
    old, new = named_leaves(_fast(params)), named_leaves(_fast(grown_params))
    patterns = patterns_of(reset, new)
    is_reset = lambda leaf: any(pattern.search(leaf) for pattern in patterns)
    direction = Expand(growth, {name: leaf.shape for name, leaf in old.items()})
    degrees = degrees_of(tx, params, slots) if degrees is None else degrees
    if all(direction.source(leaf).leaf is not None for leaf in new):
        template = jax.eval_shape(tx.init, grown_params)
    else:  # its values are where a leaf begins that no old one is like
        template = tx.init(jax.tree.map(jnp.zeros_like, grown_params))
    return _changed(direction, opt_state, template, old, new, slots, degrees, is_reset)


def degrees_of(
    tx: optax.GradientTransformation, params: PyTree, slots: Slots | None = None
) -> dict[str, Slot]:
    """The measured degrees of the slots in `tx`; see `opt_state.degrees`."""
    return degrees_in_place(tx, params, lambda state, like: record(state, like, slots, SPECIAL))


def fold_opt_state(
    tx: optax.GradientTransformation,
    opt_state: PyTree,
    growth: MapData,
    params: PyTree,
    grown_params: PyTree,
    *,
    slots: Slots | None = None,
    degrees: Mapping[str, Slot] | None = None,
) -> PyTree:
    """The inverse of `grow_opt_state`: the state of the small model.

    `params` are the small parameters. Their values are used for slots that copy parameters.
    """
    old, new = named_leaves(_fast(params)), named_leaves(_fast(grown_params))
    direction = Contract(growth, {name: leaf.shape for name, leaf in old.items()})
    degrees = degrees_of(tx, params, slots) if degrees is None else degrees
    template = jax.eval_shape(tx.init, params)
    return _changed(direction, opt_state, template, new, old, slots, degrees, lambda leaf: False)


def _changed(
    direction: Direction,
    state: PyTree,
    template: PyTree,
    before: Mapping[str, jax.Array],
    after: Mapping[str, jax.Array],
    slots: Slots | None,
    degrees: Mapping[str, Slot],
    is_reset: Callable[[str], bool],
    where: str = "",
) -> PyTree:
    """The state after growth or its inverse; `before` and `after` are the parameters."""

    def visit(kind: Kind, where: str, tree: PyTree, target: PyTree) -> PyTree:
        values = named_leaves(tree)
        for name in values:
            owner(name, before, where)
        kind = degrees.get(where, kind)

        def one(path: tuple[Any, ...], spec: Any) -> jax.Array:
            name = path_name(path)
            leaf = owner(name, after, where)
            origin = direction.source(leaf)
            here = f"{where}: slot of {leaf!r}"
            if origin.leaf is None or origin.new:
                value = _of_new_layer(kind, leaf, values, after, spec, direction)
            elif (at := origin.leaf + name[len(leaf) :]) not in values:
                raise GrowthError(
                    f"{here} is missing in the state",
                    hint="pass the state of these parameters",
                )
            elif kind == "params":
                old = before[origin.leaf]
                value = _like_params(values[at], old, after[leaf], direction, leaf, here)
            else:
                assert not isinstance(kind, str)
                value = _moved(values[at], as_slot(kind), direction, leaf, spec.shape, here)
            if value.shape != spec.shape:
                raise GrowthError(
                    f"{here} grows to {value.shape}, but {spec.shape} is needed. Check that the "
                    "growth has an entry for this leaf, and that the slot has the shape of its "
                    "parameter."
                )
            if is_reset(leaf) and not isinstance(kind, str):
                value = _reset(value, as_slot(kind))
            return value

        return jax.tree_util.tree_map_with_path(one, target)

    def inside(other: Direction, state: Any, template: Any, where: str) -> Any:
        return _changed(other, state, template, before, after, slots, degrees, is_reset, where)

    def special(state: Any, template: Any, where: str) -> Any:
        return SPECIAL[type(state).__name__](direction, state, template, where, is_reset, inside)

    return traverse(state, template, slots, quantised.through(visit), special, SPECIAL, where)


def _moved(
    x: jax.Array, slot: Slot, direction: Direction, leaf: str, shape: tuple[int, ...], here: str
) -> jax.Array:
    how = direction.how(leaf)
    if not slot.per_leaf and shape[slot.lead :] == direction.after(leaf):
        direction.check(leaf, x, here, slot.lead)
    if how is None:
        return x
    if slot.means:
        x, how = _meant(x, slot, direction, leaf, how)
    if not slot.per_leaf:
        x = direction.linear(
            x,
            how,
            shape,
            weight=slot.weight,
            gradient=slot.gradient,
            new=slot.new,
            lead=slot.lead,
            what=here,
        )
    return x * jnp.asarray(direction.norms(leaf, slot), x.dtype)


def _meant(
    x: jax.Array, slot: Slot, direction: Direction, leaf: str, how: LeafMap
) -> tuple[jax.Array, LeafMap]:
    """The slot with what becomes of its means, and the map of the axes that it has."""
    before, after = direction.before(leaf), direction.after(leaf)
    axes = list(how.axes)
    for axis, along in enumerate(how.axes):
        if along is not None and x.shape[axis] == 1 != before[axis]:
            shares = direction.shares(along, before[axis], after[axis], slot.gradient)
            x, axes[axis] = x * jnp.asarray(shares.sum(), x.dtype), None
    return x, how._replace(axes=tuple(axes))


def _like_params(
    copy: jax.Array, before: jax.Array, after: jax.Array, direction: Direction, leaf: str, here: str
) -> jax.Array:
    """A copy of the parameters: W̄′ = W′ + C (W̄ − W), with the same random values as W′."""
    how = direction.how(leaf)
    direction.check(leaf, copy, here)
    if how is None:
        return copy
    apart = copy - before.astype(copy.dtype)
    moved = direction.linear(apart, how, after.shape, weight=1, new="fill", what=here)
    return after.astype(copy.dtype) + moved


def _of_new_layer(
    kind: Kind,
    leaf: str,
    values: Mapping[str, jax.Array],
    new: Mapping[str, jax.Array],
    spec: Any,
    direction: Direction,
) -> jax.Array:
    """A slot of a new layer: μ = 0, ν = that of the neighbouring layer, a copy = the parameter."""
    if kind == "params":
        return new[leaf].astype(spec.dtype)
    assert not isinstance(kind, str)
    slot, origin = as_slot(kind), direction.source(leaf)
    if slot.new == "zero" and not slot.per_leaf:
        return jnp.zeros(spec.shape, spec.dtype)
    if origin.leaf is not None:
        here = f"slot of {leaf!r}"
        x = values[origin.leaf]
        try:
            grown = _moved(x, slot, direction, leaf, spec.shape, here)
        except GrowthError:
            grown = x
        if grown.shape == spec.shape:
            # A dead unit of the neighbouring layer has the moment 0; the new unit may not be dead.
            return jnp.where(grown == 0, jnp.mean(grown).astype(grown.dtype), grown)
        return jnp.full(spec.shape, jnp.mean(x), spec.dtype)
    return mean_of_all(values, spec)


def _reset(value: jax.Array, slot: Slot) -> jax.Array:
    if slot.per_leaf:
        return value
    if slot.new == "zero":
        return jnp.zeros_like(value)
    return jnp.full_like(value, jnp.mean(value))


def _fast(params: PyTree) -> PyTree:
    """The fast parameters of Lookahead, which are the only ones with optimizer state."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params
