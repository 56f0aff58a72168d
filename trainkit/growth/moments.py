"""Optimizer state through growth: every slot by its degree, nothing silently zeroed or copied."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit.growth import factored, quantised
from trainkit.growth.calculus import expand, fold, norm_factor
from trainkit.growth.degrees import degrees_in_place
from trainkit.growth.errors import GrowthError
from trainkit.growth.leaf import LeafGrowth, Origin
from trainkit.growth.paths import named_leaves, path_name
from trainkit.growth.slots import Kind, Slot, Slots, as_slot, fields_of
from trainkit.packed import Packed, repack, unpack_all

PyTree = Any
Growth = Mapping[str, LeafGrowth]


Visit = Callable[[Kind, str, PyTree, PyTree], PyTree]


def grow_opt_state(
    tx: optax.GradientTransformation,
    opt_state: PyTree,
    growth: Growth,
    params: PyTree,
    grown_params: PyTree,
    *,
    origin: Mapping[str, Origin] | None = None,
    slots: Slots | None = None,
    reset: bool | Sequence[str] = False,
    degrees: Mapping[str, Slot] | None = None,
) -> PyTree:
    """The state of `tx` for the grown parameters: slot′ = f^degree · slot[π].

    Momenta grow by f, second moments by f², copies of the parameters (EMA, lookahead,
    schedule-free) exactly as the parameters did, counts and scalars not at all. Entries of new
    units get μ = 0 and ν = the mean of ν over the old entries of their row or column. Adafactor's
    rows and columns may be factored differently before and after.

    Args:
      tx: the transformation, as it is used before and after.
      opt_state: its state for `params`.
      growth: leaf name -> how the leaf grows; a leaf that is not named is unchanged.
      params: the old parameters.
      grown_params: the grown ones, as the plan made them; packed as the state is.
      origin: leaf name of the grown tree -> `Origin`, where growth adds layers.
      slots: `{StateClass: {field: kind}}` for states that are not Optax's or ours; see
        `trainkit.growth.slots.Kind`.
      reset: `True` for a fresh state; or patterns of leaf names whose moments are forgotten:
        momenta become 0, second moments the leaf's mean (never 0 under an old count).
      degrees: what `degrees_of` found for `tx`; `None`: found here. With `{}` the table alone
        decides.

    Raises:
      GrowthError: a state class is not in the table, a slot does not have its parameter's shape, or
        a leaf changes its shape without a growth.

    >>> import jax.numpy as jnp, numpy as np, optax
    >>> from trainkit.growth.leaf import AxisGrowth, LeafGrowth
    >>> copies = AxisGrowth(np.array([0, 1, 0, 1]), np.ones(4), np.full(4, .5))
    >>> params, tx = {"b": jnp.zeros(2)}, optax.adam(1e-3)
    >>> _, state = tx.update({"b": jnp.array([1., 2.])}, tx.init(params), params)
    >>> grown = grow_opt_state(
    ...     tx, state, {"b": LeafGrowth((copies,))}, params, {"b": jnp.zeros(4)})
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
            origin=origin,
            slots=slots,
            reset=reset,
            degrees=degrees,
        )
        return repack(grown_tree, opt_state, grown_params)
    if reset is True:
        return tx.init(grown_params)
    patterns = [re.compile(pattern) for pattern in (reset or ())]
    template = jax.eval_shape(tx.init, grown_params)
    old, new = named_leaves(_fast(params)), named_leaves(_fast(grown_params))
    context = _Leaves(growth, {name: leaf.shape for name, leaf in old.items()}, origin)

    degrees = degrees_of(tx, params, slots) if degrees is None else degrees

    def visit(kind: Kind, where: str, tree: PyTree, target: PyTree) -> PyTree:
        values = named_leaves(tree)
        kind = degrees.get(where, kind)

        def one(path: tuple[Any, ...], spec: Any) -> jax.Array:
            name = path_name(path)
            leaf = context.owner(name, new, where)
            come = context.origin(leaf)
            here = f"{where}: slot of {leaf!r}"
            if come.leaf is None or come.new:
                value = _of_new_layer(kind, leaf, come, values, new, spec, context)
            else:
                x = values[come.leaf + name[len(leaf) :]]
                if kind == "params":
                    value = _like_params(x, old[come.leaf], new[leaf], context.growth(leaf), here)
                else:
                    assert not isinstance(kind, str)
                    value = _grow(x, as_slot(kind), context, leaf, here)
            if value.shape != spec.shape:
                raise GrowthError(
                    f"{here} grows to {value.shape}, but {spec.shape} is needed. Does the growth "
                    f"name this leaf, and has the slot the shape of its parameter?"
                )
            if any(pattern.search(leaf) for pattern in patterns) and not isinstance(kind, str):
                value = _forget(value, as_slot(kind))
            return value

        return jax.tree_util.tree_map_with_path(one, target)

    special = factored.Regrow(context, patterns)
    return _walk(opt_state, template, slots, quantised.through(visit), special, "")


def degrees_of(
    tx: optax.GradientTransformation, params: PyTree, slots: Slots | None = None
) -> dict[str, Slot]:
    """What the slots' degrees are where they stand in `tx`; see `trainkit.growth.degrees`."""
    return degrees_in_place(tx, params, lambda state, like: _record(state, like, slots))


def fold_opt_state(
    tx: optax.GradientTransformation,
    opt_state: PyTree,
    growth: Growth,
    params: PyTree,
    grown_params: PyTree,
    *,
    origin: Mapping[str, Origin] | None = None,
    slots: Slots | None = None,
    degrees: Mapping[str, Slot] | None = None,
) -> PyTree:
    """The inverse of `grow_opt_state`: the state that the small model would have.

    `params` are the small parameters (their values matter for slots that copy parameters).
    """
    template = jax.eval_shape(tx.init, params)
    old, new = named_leaves(_fast(params)), named_leaves(_fast(grown_params))
    context = _Leaves(growth, {name: leaf.shape for name, leaf in old.items()}, origin)
    back = {context.origin(leaf).leaf: leaf for leaf in new if not context.origin(leaf).new}
    degrees = degrees_of(tx, params, slots) if degrees is None else degrees

    def visit(kind: Kind, where: str, tree: PyTree, target: PyTree) -> PyTree:
        values = named_leaves(tree)
        kind = degrees.get(where, kind)

        def one(path: tuple[Any, ...], spec: Any) -> jax.Array:
            name = path_name(path)
            leaf = context.owner(name, old, where)
            big = back[leaf]
            y = values[big + name[len(leaf) :]]
            how = context.growth(big)
            if how is None:
                return y
            here = f"{where}: slot of {leaf!r}"
            if kind == "params":
                # The constant part of growth (shift, noise, fresh entries) cancels out.
                return old[leaf].astype(y.dtype) + fold(
                    y - new[big].astype(y.dtype), how, spec.shape, weight=1, what=here
                )
            assert not isinstance(kind, str)
            slot = as_slot(kind)
            scale = context.norms(big, slot)
            if slot.per_leaf:
                return y / jnp.asarray(scale, y.dtype)
            x = fold(
                y,
                how,
                spec.shape,
                weight=slot.weight,
                gradient=slot.gradient,
                lead=slot.lead,
                what=here,
            )
            return x / jnp.asarray(scale, x.dtype)

        return jax.tree_util.tree_map_with_path(one, target)

    special = factored.Refold(context, back)
    return _walk(opt_state, template, slots, quantised.through(visit), special, "")


class _Leaves:
    """Names: which leaf a slot belongs to, where it comes from, and how it grows."""

    def __init__(
        self,
        growth: Growth,
        shapes: Mapping[str, tuple[int, ...]],
        origin: Mapping[str, Origin] | None,
    ):
        self._growth, self.shapes, self._origin = growth, shapes, origin or {}

    def owner(self, name: str, leaves: Mapping[str, Any], where: str) -> str:
        # A slot may keep several arrays for one leaf: "w/0", "w/real".
        leaf = name
        while leaf not in leaves:
            if "/" not in leaf:
                if "" in leaves:
                    return ""
                raise GrowthError(
                    f"{where}: {name!r} is no leaf of the parameters ({', '.join(list(leaves)[:4])}"
                    f", …). The slot has another tree than the parameters; describe its state "
                    f"class with slots=…"
                )
            leaf = leaf.rpartition("/")[0]
        return leaf

    def origin(self, leaf: str) -> Origin:
        return self._origin.get(leaf, Origin(leaf))

    def growth(self, leaf: str) -> LeafGrowth | None:
        return self._growth.get(leaf)

    def norms(self, leaf: str, slot: Slot) -> float:
        how = self.growth(leaf)
        if how is None or not (slot.norm_weight or slot.norm_gradient):
            return 1.0
        shape = self.shapes[self.origin(leaf).leaf or leaf]
        return (
            norm_factor(how, shape, "weight") ** slot.norm_weight
            * norm_factor(how, shape, "gradient") ** slot.norm_gradient
        )


def _grow(x: jax.Array, slot: Slot, context: _Leaves, leaf: str, here: str) -> jax.Array:
    how = context.growth(leaf)
    if how is None:
        return x
    scale = context.norms(leaf, slot)
    if not slot.per_leaf:
        x = expand(
            x,
            how,
            weight=slot.weight,
            gradient=slot.gradient,
            new=slot.new,
            lead=slot.lead,
            what=here,
        )
    return x * jnp.asarray(scale, x.dtype)


def _like_params(
    copy: jax.Array, old: jax.Array, grown: jax.Array, how: LeafGrowth | None, here: str
) -> jax.Array:
    """W̄′ = W′ + C (W̄ − W): the same π, noise and fresh entries that the parameters got."""
    if how is None:
        return copy
    moved = expand(copy - old.astype(copy.dtype), how, weight=1, new="fill", what=here)
    return grown.astype(copy.dtype) + moved


def _of_new_layer(
    kind: Kind,
    leaf: str,
    come: Origin,
    values: Mapping[str, jax.Array],
    new: Mapping[str, jax.Array],
    spec: Any,
    context: _Leaves,
) -> jax.Array:
    """A leaf without history: μ = 0, ν = its neighbour's, a copy of the parameters = itself."""
    if kind == "params":
        return new[leaf].astype(spec.dtype)
    assert not isinstance(kind, str)
    slot = as_slot(kind)
    if slot.new == "zero" and not slot.per_leaf:
        return jnp.zeros(spec.shape, spec.dtype)
    if come.leaf is not None:
        here = f"slot of {leaf!r}"
        x = values[come.leaf]
        try:
            grown = _grow(x, slot, context, leaf, here)
        except GrowthError:
            grown = x
        if grown.shape == spec.shape:
            # Where the neighbour is dead its moment is 0; the new layer need not be.
            return jnp.where(grown == 0, jnp.mean(grown).astype(grown.dtype), grown)
        return jnp.full(spec.shape, jnp.mean(x), spec.dtype)
    same = [jnp.mean(x) for x in values.values() if x.size]
    return jnp.full(spec.shape, sum(same) / len(same), spec.dtype)


def _forget(value: jax.Array, slot: Slot) -> jax.Array:
    if slot.per_leaf:
        return value
    if slot.new == "zero":
        return jnp.zeros_like(value)
    return jnp.full_like(value, jnp.mean(value))


def _fast(params: PyTree) -> PyTree:
    """Lookahead keeps state for its fast parameters only."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def _walk(
    state: PyTree,
    template: PyTree,
    slots: Slots | None,
    visit: Visit,
    special: Any,
    where: str,
    given: set[str] | None = None,
) -> PyTree:
    """Applies `visit` to every slot, following states inside states."""
    if not jax.tree.leaves(state):
        return state if not jax.tree.leaves(template) else _differs(state, template, where)
    if type(state) in (tuple, list):
        if len(state) != len(template):
            return _differs(state, template, where)
        return type(state)(
            _walk(s, t, slots, visit, special, f"{where}[{i}]", given)
            for i, (s, t) in enumerate(zip(state, template, strict=True))
        )
    if isinstance(state, dict):
        if set(state) != set(template):
            return _differs(state, template, where)
        return type(state)(
            (key, _walk(s, template[key], slots, visit, special, f"{where}[{key!r}]", given))
            for key, s in state.items()
        )
    if type(state) is not type(template):
        return _differs(state, template, where)
    here = f"{where}.{type(state).__name__}" if where else type(state).__name__
    if (slots is None or type(state) not in slots) and special.handles(state):
        return special(state, template, here)
    if given is not None and slots is not None and type(state) in slots:
        given.add(here)
    fields = fields_of(state, slots, where)
    changes = {}
    for field, kind in fields.items():
        if not hasattr(state, field):
            continue  # a field of another release of this class
        value, target = getattr(state, field), getattr(template, field)
        at = f"{here}.{field}"
        if kind == "keep":
            changes[field] = value
        elif kind == "state":
            changes[field] = _walk(value, target, slots, visit, special, at, given)
        elif kind == "measured":
            changes[field] = _measured(value, target)
        else:
            changes[field] = visit(kind, at, value, target)
    if hasattr(state, "_replace"):
        return state._replace(**changes)
    return dataclasses.replace(state, **changes)


class _Skip:
    """For a walk that only looks: the states of `factored` have their own rule."""

    def handles(self, state: Any) -> bool:
        return factored.is_special(state)

    def __call__(self, state: Any, template: Any, where: str) -> Any:
        return state


def _record(state: PyTree, template: PyTree, slots: Slots | None) -> dict[str, Any]:
    """Every slot that has a degree by the table: where -> (kind, leaf name -> value)."""
    seen: dict[str, Any] = {}

    def visit(kind: Kind, where: str, tree: PyTree, target: PyTree) -> PyTree:
        if not isinstance(kind, str) and where.rpartition(".")[0] not in given:
            seen[where] = (kind, named_leaves(tree))
        return tree

    # What the user says of a class is taken at its word.
    given: set[str] = set()
    _walk(state, template, slots, visit, _Skip(), "", given)
    return seen


def _measured(value: PyTree, target: PyTree) -> PyTree:
    if str(jax.tree.structure(value)) != str(jax.tree.structure(target)):
        return value
    return jax.tree.map(
        lambda x, spec: x if jnp.shape(x) == spec.shape else jnp.zeros(spec.shape, spec.dtype),
        value,
        target,
    )


def _differs(state: PyTree, template: PyTree, where: str) -> PyTree:
    raise GrowthError(
        f"the optimizer state at {where or 'its top'} is a {type(state).__name__} with structure "
        f"{jax.tree.structure(state)}, but tx.init makes a {type(template).__name__} with "
        f"{jax.tree.structure(template)}. Is tx the transformation that this state came from?"
    )
