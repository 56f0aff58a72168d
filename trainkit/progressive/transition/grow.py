"""The growth between two stages' models, by this package's own analysis."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.adapters.functions import Functions
from trainkit.growth.operators import EXACT, Operator
from trainkit.growth.plan.data import Plan
from trainkit.growth.plan.leaf_map import LeafGrowth
from trainkit.growth.train_state import passage
from trainkit.progressive.transition.growth import Growth, Side

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
    """See `trainkit.progressive.transition.growth.Grow`."""
    way = passage(_traced(small), _traced(big), (batch,), tx=tx, how=how, key=key, reset=reset)
    rates = {name: rate(growth) for name, growth in way.growth.items()}
    new = [name for name, come in way.origin.items() if come.new]
    added = way.plan.depth is not None
    return Growth(
        apply=way.apply,
        rates={name: value for name, value in rates.items() if value != 1.0},
        fresh=frozenset(new),
        exact=how.width in EXACT and (not added or how.depth == "identity"),
        text=_text(way.plan),
        leaves=way.growth,
        origin=way.origin,
        zeroed=way.zeroed,
        mup={
            name.removeprefix("params/"): leaf
            for name, leaf in way.plan.mup().leaves.items()
            if name.startswith("params/")
        },
    )


def rate(growth: LeafGrowth) -> float:
    """The factor on the learning rate with which a sign-like rule goes on as before: the mean c."""
    axes = [float(np.mean(np.abs(a.weight))) for a in growth.axes if a is not None]
    return abs(growth.weight) * math.prod(axes)


def _traced(side: Side) -> Functions:
    model = side.model

    def outputs(tree: PyTree, batch: PyTree) -> PyTree:
        inputs = model.inputs(batch)
        key = jax.random.key(0)
        return model.apply(tree["params"], tree["model_state"], inputs, key, train=False)[0]

    def init(key: jax.Array, batch: PyTree) -> PyTree:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
        return dict(zip(("params", "model_state"), model.init(key, zeros), strict=True))

    state = side.state
    return Functions(outputs, {"params": state.params, "model_state": state.model_state}, init)


def _text(plan: Plan) -> str:
    new = [
        f"{leaf.path}: {leaf.layer.becomes if leaf.layer.becomes != 'copy' else leaf.source}"
        for leaf in plan.leaves
        if leaf.layer is not None and leaf.layer.new
    ]
    return "\n".join([*(["New layers:", *new, ""] if new else []), plan.table()])
