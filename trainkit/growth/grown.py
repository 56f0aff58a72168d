"""The growth between two models, by this package's own analysis: what a growing run uses."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import optax

from trainkit.growth.applying import grow_leaf
from trainkit.growth.between import Growth, Side
from trainkit.growth.leaf import AxisGrowth, LeafGrowth
from trainkit.growth.moments import grow_opt_state
from trainkit.growth.operators import Operator
from trainkit.growth.planning import plan
from trainkit.growth.realising import noise_groups
from trainkit.state import TrainState

PyTree = Any


def grown(
    small: Side,
    big: Side,
    batch: PyTree,
    *,
    tx: optax.GradientTransformation,
    how: Operator,
    reset: bool,
    key: jax.Array,
) -> Growth:
    """See `trainkit.growth.between.Grow`."""
    symmetry: Any = "uneven" if how.width == "rms" else how.width
    tree = lambda state: {"params": state.params, "model_state": state.model_state}
    found = plan(_outputs(small), _outputs(big), tree(small.state), tree(big.state), batch)
    growths = found.realise(key, symmetry)
    if how.width == "rms":
        growths = {name: rms(growth) for name, growth in growths.items()}
    groups = noise_groups(found) if symmetry == "noise" else {}

    def apply(state: TrainState) -> TrainState:
        leaves, treedef = jax.tree.flatten(tree(state))
        new = []
        for i, (leaf, w) in enumerate(zip(found.leaves, leaves, strict=True)):
            own = jax.random.fold_in(key, i)
            new.append(grow_leaf(w, growths[leaf.path], own, groups.get(leaf.path, ())))
        both = jax.tree.unflatten(treedef, new)
        opt_state = grow_opt_state(
            tx,
            state.opt_state,
            _of("params/", growths),
            state.params,
            both["params"],
            reset=reset,
        )
        return state.replace(
            params=both["params"], model_state=both["model_state"], opt_state=opt_state
        )

    rates = {name: rate(growth) for name, growth in _of("params/", growths).items()}
    return Growth(
        apply=apply,
        rates={name: value for name, value in rates.items() if value != 1.0},
        exact=how.width != "rms",
        text=found.table(),
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


def _outputs(side: Side) -> Any:
    model, key = side.model, jax.random.key(0)

    def outputs(tree: PyTree, batch: PyTree) -> PyTree:
        inputs = model.inputs(batch)
        return model.apply(tree["params"], tree["model_state"], inputs, key, train=False)[0]

    return outputs


def _of(prefix: str, growths: dict[str, LeafGrowth]) -> dict[str, LeafGrowth]:
    return {k.removeprefix(prefix): g for k, g in growths.items() if k.startswith(prefix)}
