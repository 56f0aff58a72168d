"""The growth between two models, depth and width, by this package's own analysis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.growth.applying import grow_leaf
from trainkit.growth.between import Growth, Side
from trainkit.growth.errors import GrowthError
from trainkit.growth.identity import LayerLeaf, identity_kernel, identity_layers
from trainkit.growth.layers import align
from trainkit.growth.leaf import AxisGrowth, LeafGrowth
from trainkit.growth.moments import Origin, grow_opt_state
from trainkit.growth.operators import Operator
from trainkit.growth.paths import named_leaves
from trainkit.growth.planning import plan
from trainkit.growth.realising import noise_groups
from trainkit.state import TrainState

PyTree = Any


def grown(
    small: Side,
    big: Side,
    batch: PyTree,
    *,
    build: Callable[[Any], Any],
    tx: optax.GradientTransformation,
    how: Operator,
    reset: bool,
    key: jax.Array,
) -> Growth:
    """See `trainkit.growth.between.Grow`.

    First layers are added at the small model's widths, then the whole is widened; the model in
    between comes from the fields of the module (Linen), those that only change widths set back.
    """
    middle = _between(small, big, build, batch)
    leaves = _layers(small, middle, batch, how)
    found = plan(_outputs(middle), _outputs(big), _tree(middle.state), _tree(big.state), batch)
    symmetry: Any = "uneven" if how.width == "rms" else how.width
    growths = found.realise(key, symmetry)
    if how.width == "rms":
        growths = {name: rms(growth) for name, growth in growths.items()}
    groups = noise_groups(found) if symmetry == "noise" else {}
    origin = {
        name: Origin(leaf.source and leaf.source.removeprefix("params/"), leaf.new)
        for name, leaf in _of("params/", leaves).items()
    }
    needs_fresh = any(leaf.source is None and leaf.becomes == "copy" for leaf in leaves.values())

    def apply(state: TrainState) -> TrainState:
        old = named_leaves(_tree(state))
        fresh: Mapping[str, jax.Array] = {}
        if needs_fresh:
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
            params, model_state = middle.model.init(key, zeros)
            fresh = named_leaves({"params": params, "model_state": model_state})
        new = []
        for i, (name, spec) in enumerate(named_leaves(_tree(middle.state)).items()):
            value = _layer(name, leaves[name], spec, old, fresh)
            new.append(
                grow_leaf(value, growths[name], jax.random.fold_in(key, i), groups.get(name, ()))
            )
        both = jax.tree.unflatten(jax.tree.structure(_tree(big.state)), new)
        opt_state = grow_opt_state(
            tx,
            state.opt_state,
            _of("params/", growths),
            state.params,
            both["params"],
            origin=origin,
            reset=reset,
        )
        return state.replace(
            params=both["params"], model_state=both["model_state"], opt_state=opt_state
        )

    rates = {name: rate(growth) for name, growth in _of("params/", growths).items()}
    added = [name for name, leaf in leaves.items() if leaf.new]
    return Growth(
        apply=apply,
        rates={name: value for name, value in rates.items() if value != 1.0},
        fresh=frozenset(name.removeprefix("params/") for name in added),
        exact=how.width != "rms" and (not added or how.depth == "identity"),
        text=_text(leaves, found.table()),
        leaves=_of("params/", growths),
        origin=origin,
        zeroed=tuple(n for n, leaf in _of("params/", leaves).items() if leaf.becomes == "zero"),
        mup=_of("params/", found.mup().leaves),
    )


def rms(growth: LeafGrowth) -> LeafGrowth:
    """The rule that keeps the scale of activations instead of the function: factor c becomes √c.

    A matrix that reads k copies of each unit is divided by √k, as independent inputs would want,
    and not by k, as equal ones do: W′ = W[π] · √(d_in / d_in′).
    """

    def axis(a: AxisGrowth | None) -> AxisGrowth | None:
        return None if a is None else a._replace(weight=_root(a.weight))

    return growth._replace(
        axes=tuple(axis(a) for a in growth.axes),
        weight=float(_root(np.asarray(growth.weight))),
        exact_gradient=False,
    )


def rate(growth: LeafGrowth) -> float:
    """The factor on the learning rate with which a sign-like rule goes on as before: the mean c."""
    axes = [float(np.mean(np.abs(a.weight))) for a in growth.axes if a is not None]
    return abs(growth.weight) * math.prod(axes)


def _root(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


# -- depth --------------------------------------------------------------------------------------


def _layers(small: Side, middle: Side, batch: PyTree, how: Operator) -> dict[str, LayerLeaf]:
    before, after = named_leaves(_tree(small.state)), named_leaves(_tree(middle.state))
    if list(before) == list(after):
        return {name: LayerLeaf(name, False) for name in after}
    shapes = [{name: tuple(x.shape) for name, x in tree.items()} for tree in (before, after)]
    found = align(shapes[0], shapes[1], how.depth)
    leaves = {name: LayerLeaf(found[name].leaf, found[name].new) for name in after}
    for name, leaf in leaves.items():
        if leaf.source is None and how.depth != "identity":
            raise GrowthError(
                f"how={how.depth!r} copies layers, but no old layer has the shapes of {name}; "
                "take 'identity'"
            )
        if leaf.source is not None and shapes[0][leaf.source] != shapes[1][name]:
            raise GrowthError(
                f"{name} has shape {shapes[1][name]}, and {leaf.source}, which it would come "
                f"from, {shapes[0][leaf.source]}: layers that are stacked in one array grow by "
                "trainkit.growth.grow, not in a run of stages"
            )
    if how.depth != "identity":
        return leaves
    trees = _tree(small.state), _tree(middle.state)
    return identity_layers(_outputs(small), _outputs(middle), *trees, leaves, batch)


def _layer(
    name: str,
    leaf: LayerLeaf,
    spec: Any,
    old: Mapping[str, jax.Array],
    fresh: Mapping[str, jax.Array],
) -> jax.Array:
    if leaf.becomes == "zero":
        return jnp.zeros(spec.shape, spec.dtype)
    if leaf.becomes == "eye":
        return jnp.asarray(identity_kernel(spec.shape, spec.dtype))
    return fresh[name] if leaf.source is None else old[leaf.source]


def _between(small: Side, big: Side, build: Callable[[Any], Any], batch: PyTree) -> Side:
    """The big model at the small one's widths: the small one itself where no layer is added."""
    names = lambda side: list(named_leaves(_tree(side.state)))
    if names(small) == names(big):
        return small
    best: Side | None = None
    for module in _candidates(small.module, big.module):
        try:
            model = build(module)
            params, model_state = jax.eval_shape(model.init, jax.random.key(0), batch)
        except (TypeError, ValueError):
            continue  # fields that do not go together make no model
        state = big.state.replace(params=params, model_state=model_state)
        side = Side(module, model, state)
        if names(side) == names(big) and (best is None or _size(side) < _size(best)):
            best = side
    assert best is not None  # the big module is one of the candidates
    return best


def _candidates(small: Any, big: Any) -> Iterator[Any]:
    """The big module with some of its fields set to the small one's, in every combination."""
    yield big
    fields = _different(small, big)
    for bits in range(1, 2 ** len(fields)):
        chosen = {name: value for i, (name, value) in enumerate(fields) if bits >> i & 1}
        yield dataclasses.replace(big, **chosen)


def _different(small: Any, big: Any) -> list[tuple[str, Any]]:
    if not (dataclasses.is_dataclass(big) and type(small) is type(big)):
        return []
    found = []
    for field in dataclasses.fields(big):
        if field.name in ("parent", "name") or not field.init:
            continue
        old, new = getattr(small, field.name), getattr(big, field.name)
        if old == new:
            continue
        if isinstance(old, list | tuple) and isinstance(new, list | tuple) and old:
            # Sizes of layers: those that are added are as wide as the last before them.
            old = type(new)([*old, *[old[-1]] * (len(new) - len(old))])
        found.append((field.name, old))
    if len(found) > 8:
        raise GrowthError(
            f"the two modules differ in {len(found)} fields: {', '.join(n for n, _ in found)}; "
            "grow in several stages that change fewer at a time"
        )
    return found


def _size(side: Side) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(side.state.params))


# -- small things -------------------------------------------------------------------------------


def _outputs(side: Side) -> Callable[..., PyTree]:
    model, key = side.model, jax.random.key(0)

    def outputs(tree: PyTree, batch: PyTree) -> PyTree:
        inputs = model.inputs(batch)
        return model.apply(tree["params"], tree["model_state"], inputs, key, train=False)[0]

    return outputs


def _tree(state: TrainState) -> PyTree:
    return {"params": state.params, "model_state": state.model_state}


def _of(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _text(leaves: Mapping[str, LayerLeaf], table: str) -> str:
    new = [
        f"{name}: {leaf.becomes if leaf.becomes != 'copy' else leaf.source or 'fresh'}"
        for name, leaf in leaves.items()
        if leaf.new
    ]
    return "\n".join([*(["New layers:", *new, ""] if new else []), table])
